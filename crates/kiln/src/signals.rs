//! SIGINT and SIGTERM end a build in order: they set a flag that everything long-running looks at. A second
//! one ends the program at once; what it leaves is reclaimed by the kernel and by the next start.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::Kind;

/// Installs the handlers and returns the flag.
pub(crate) fn interrupted() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Registered first, so that it runs first: it sees the flag that the first signal has set.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Kind::Interrupted as i32,
            Arc::clone(&flag),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}
