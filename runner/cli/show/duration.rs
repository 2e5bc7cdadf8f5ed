//! Durations and moments for people.

use jiff::Zoned;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// In the two largest units: `40 s`, `5 min`, `2 h 40 min`, `3 days 4 h`. Seconds are left out from ten minutes on.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let two = |(large, name): (u64, &str), (small, other): (u64, &str)| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {other}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..600 => two((seconds / MINUTE, "min"), (seconds % MINUTE, "s")),
        600..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two((seconds / HOUR, "h"), (seconds % HOUR / MINUTE, "min")),
        _ => {
            let days = seconds / DAY;
            let name = if days == 1 { "day" } else { "days" };
            two((days, name), (seconds % DAY / HOUR, "h"))
        }
    }
}

/// One that is over: `0.4 s`, `13 s`, `2 min 5 s`, `1 h 2 min`.
pub(crate) fn exact_duration(took: Duration) -> String {
    let seconds = took.as_secs();
    match (seconds / HOUR, seconds % HOUR / MINUTE, seconds % MINUTE) {
        (0, 0, 0..10) => format!("{:.1} s", took.as_secs_f64()),
        (0, 0, s) => format!("{s} s"),
        (0, min, s) => format!("{min} min {s} s"),
        (h, min, _) => format!("{h} h {min} min"),
    }
}

/// [`duration`] in at most seven characters, for a line of progress: `40s`, `5m20s`, `2h40m`, `3d4h`.
pub(crate) fn short_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m{:02}s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{}h{:02}m", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{}d{:02}h", (seconds / DAY).min(999), seconds % DAY / HOUR),
    }
}

/// When it is over that takes so long from now on, in the time of this machine: `21:40`, with the day if it is another.
pub(crate) fn finishing_time(left: Duration) -> Option<String> {
    let now = Zoned::now();
    let then = now.checked_add(left).ok()?;
    let form = match then.date().since(now.date()).ok()?.get_days() {
        0 => "%H:%M",
        1..6 => "%a %H:%M",
        _ => "%d %b %H:%M",
    };
    Some(then.strftime(form).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_named_where_it_is_another() {
        let n_chars = |hours: u64| {
            let time = finishing_time(Duration::from_secs(hours * HOUR));
            time.unwrap().chars().count()
        };
        assert_eq!(n_chars(0), "21:40".len());
        assert_eq!(n_chars(48), "Mon 21:40".len());
        assert_eq!(n_chars(24 * 30), "30 Nov 21:40".len());
        assert_eq!(finishing_time(Duration::from_secs(u64::MAX)), None);
    }

    #[test]
    fn durations_have_two_units() {
        let of = |seconds| exact_duration(Duration::from_secs(seconds));
        assert_eq!(exact_duration(Duration::from_millis(420)), "0.4 s");
        assert_eq!(of(17), "17 s");
        assert_eq!(of(125), "2 min 5 s");
        assert_eq!(of(3 * 3600 + 125), "3 h 2 min");
    }

    #[test]
    fn two_units_say_enough() {
        for (seconds, long, short) in [
            (0.0, "0 s", "0s"),
            (39.6, "40 s", "40s"),
            (60.0, "1 min", "1m00s"),
            (330.0, "5 min 30 s", "5m30s"),
            (1000.0, "16 min", "16m40s"),
            (9600.0, "2 h 40 min", "2h40m"),
            (86_400.0, "1 day", "1d00h"),
            (273_600.0, "3 days 4 h", "3d04h"),
        ] {
            let time = Duration::from_secs_f64(seconds);
            assert_eq!((&*duration(time), &*short_duration(time)), (long, short));
        }
    }
}
