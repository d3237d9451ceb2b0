//! Numbers as people read them.

use std::time::Duration;

/// A duration: `1 min 05 s`, `12.3 s`, `45 ms`, `3.4 ms`, `180 µs`, `6.2 µs`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        60.0.. => format!("{} min {:02} s", duration.as_secs() / 60, duration.as_secs() % 60),
        1.0.. => format!("{seconds:.1} s"),
        0.01.. => format!("{:.0} ms", seconds * 1e3),
        0.001.. => format!("{:.1} ms", seconds * 1e3),
        0.000_01.. => format!("{:.0} µs", seconds * 1e6),
        _ => format!("{:.1} µs", seconds * 1e6),
    }
}

/// A number of bytes: `1.5 GiB`, `300 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if value < 10.0 && unit != "B" {
                format!("{value:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_fitting_unit() {
        for (micros, text) in [
            (9, "9.0 µs"),
            (180, "180 µs"),
            (3_400, "3.4 ms"),
            (45_000, "45 ms"),
            (12_340_000, "12.3 s"),
            (65_000_000, "1 min 05 s"),
            (3_600_000_000, "60 min 00 s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn bytes_have_a_fitting_unit() {
        for (count, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (300 << 20, "300 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
