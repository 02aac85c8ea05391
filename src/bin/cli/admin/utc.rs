//! Formats points in time.

/// Number of days in 400 years, after which the calendar repeats.
const CYCLE_DAYS: u64 = 146_097;

/// Formats a time, in milliseconds since 1970, as in `2026-11-30 18:05:09.042 UTC`.
pub(super) fn utc(millis: u64) -> String {
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let (all_days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970 + all_days / CYCLE_DAYS * 400, all_days % CYCLE_DAYS);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02}:{:02}.{millis:03} UTC",
        day + 1,
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_as_utc_dates() {
        for (millis, wanted) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59.999 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00.000 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00.000 UTC"),
            (1_796_064_372_155, "2026-11-30 18:46:12.155 UTC"),
            (4_107_542_399_000, "2100-02-28 23:59:59.000 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000 UTC"),
            (4_133_980_799_000, "2100-12-31 23:59:59.000 UTC"),
        ] {
            assert_eq!(utc(millis), wanted);
        }
        assert!(utc(u64::MAX).ends_with(" UTC"));
    }
}
