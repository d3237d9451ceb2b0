//! Times of day in the machine's zone.

/// A time of day as a clock on the wall shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// The year.
    pub year: i64,
    /// The month, from 0.
    pub month: usize,
    /// The day of the month, from 1.
    pub day: i32,
    /// The day of the week, from 0 for Sunday.
    pub weekday: usize,
    /// The hour.
    pub hour: i32,
    /// The minute.
    pub minute: i32,
    /// The second.
    pub second: i32,
}

/// Converts seconds since 1970; none if the year cannot be told.
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    let seconds: libc::time_t = seconds;
    let mut broken = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call.
    #[expect(unsafe_code, reason = "the zone is known to the C library only")]
    let filled_in = unsafe { libc::localtime_r(&raw const seconds, broken.as_mut_ptr()) };
    if filled_in.is_null() {
        return None;
    }
    // SAFETY: the function has filled it in, and all zeros are a valid `tm` anyway.
    #[expect(unsafe_code, reason = "the C library writes into memory that it is given")]
    let broken = unsafe { broken.assume_init() };
    Some(LocalTime {
        year: i64::from(broken.tm_year) + 1900,
        month: usize::try_from(broken.tm_mon).ok()?,
        day: broken.tm_mday,
        weekday: usize::try_from(broken.tm_wday).ok()?,
        hour: broken.tm_hour,
        minute: broken.tm_min,
        second: broken.tm_sec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_time_in_any_zone() {
        let time = local_time(1_700_000_000).expect("a time");
        // 2023-11-14 22:13:20 UTC: no zone is more than a day away, and all are whole minutes from it.
        assert_eq!((time.year, time.month, time.second), (2023, 10, 20));
        assert!((14..=15).contains(&time.day), "{time:?}");
        assert_eq!(time.weekday, if time.day == 14 { 2 } else { 3 });
        assert_eq!(local_time(i64::MAX), None);
    }
}
