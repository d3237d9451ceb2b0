//! A SOCKS5 proxy on the loopback interface (RFC 1928, 1929) that wants a name and a password, and leads to any port of
//! the loopback interface, whatever host it is asked for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the proxy answers with, beside the version.
const WITH_PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;

/// A running proxy.
pub struct SocksProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    password: String,
    /// What clients wanted to be connected to.
    targets: Mutex<Vec<String>>,
    refused: Mutex<usize>,
    sockets: Mutex<Vec<TcpStream>>,
    closing: AtomicBool,
}

impl SocksProxy {
    /// Starts a proxy that only lets in who knows the name and the password.
    ///
    /// # Panics
    ///
    /// If there is no free port on the loopback interface.
    pub fn start(name: &str, password: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            password: password.to_owned(),
            targets: Mutex::default(),
            refused: Mutex::default(),
            sockets: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, shared, listener: Some(listener) }
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hosts and ports that clients were connected to, as they named them.
    pub fn targets(&self) -> Vec<String> {
        lock(&self.shared.targets).clone()
    }

    /// How many clients did not know the password.
    pub fn refused(&self) -> usize {
        *lock(&self.shared.refused)
    }
}

impl Drop for SocksProxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        for socket in lock(&self.shared.sockets).drain(..) {
            // Already closed is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the listener, which then sees that the proxy is closing.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    std::thread::scope(|scope| {
        for socket in listener.incoming().flatten() {
            if shared.closing.load(Ordering::Relaxed) {
                return;
            }
            lock(&shared.sockets).extend(socket.try_clone());
            scope.spawn(move || {
                // A client that goes away is part of some tests.
                let _ = serve(shared, &socket);
                let _ = socket.shutdown(Shutdown::Both);
            });
        }
    });
}

fn serve(shared: &Shared, mut client: &TcpStream) -> io::Result<()> {
    let [_, methods] = read(client)?;
    let methods = read_text(client, methods.into())?;
    if !methods.contains(&WITH_PASSWORD) {
        *lock(&shared.refused) += 1;
        return client.write_all(&[5, NO_METHOD]);
    }
    client.write_all(&[5, WITH_PASSWORD])?;
    let [_, length] = read(client)?;
    let name = read_text(client, length.into())?;
    let [length] = read(client)?;
    let password = read_text(client, length.into())?;
    if name != shared.name.as_bytes() || password != shared.password.as_bytes() {
        *lock(&shared.refused) += 1;
        return client.write_all(&[1, 1]);
    }
    client.write_all(&[1, 0])?;
    let [_, _, _, kind] = read(client)?;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read::<4>(client)?).to_string(),
        3 => {
            let [length] = read(client)?;
            String::from_utf8_lossy(&read_text(client, length.into())?).into_owned()
        }
        _ => std::net::Ipv6Addr::from(read::<16>(client)?).to_string(),
    };
    let port = u16::from_be_bytes(read(client)?);
    lock(&shared.targets).push(format!("{host}:{port}"));
    let server = TcpStream::connect(("127.0.0.1", port))?;
    lock(&shared.sockets).extend(server.try_clone());
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*client, &mut &server);
            let _ = server.shutdown(Shutdown::Both);
        });
        let _ = io::copy(&mut &server, &mut &*client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn read<const LENGTH: usize>(mut from: &TcpStream) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_text(mut from: &TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
