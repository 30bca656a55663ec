//! How long a member is silent before it is evicted, as people write it.

use std::{fmt, str::FromStr, time::Duration};

/// Names of units, and their seconds.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
/// A member counts as silent after some eight seconds; who restarts takes longer.
const LEAST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A whole number of seconds, minutes, hours or days: `30s`, `10m`, `4h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictAfter(Duration);

impl EvictAfter {
    /// In milliseconds.
    pub fn ms(self) -> u64 {
        self.0.as_millis() as u64
    }
}

impl FromStr for EvictAfter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<EvictAfter, &'static str> {
        let unit = UNITS.iter().find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)));
        let (number, seconds) = unit.ok_or("a duration is a whole number with s, m, h or d, as 30s")?;
        let number: u64 = number.parse().map_err(|_| "a duration is a whole number with s, m, h or d, as 30s")?;
        let after = number.checked_mul(seconds).map(Duration::from_secs).filter(|after| *after <= MOST);
        let after = after.ok_or("nobody waits that long: at most 3650d")?;
        if after < LEAST { Err("a node that restarts takes longer: at least 10s") } else { Ok(EvictAfter(after)) }
    }
}

impl fmt::Display for EvictAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, seconds): &&(&str, u64)| self.0.as_secs().is_multiple_of(*seconds);
        let (name, seconds) = UNITS.iter().find(whole).expect("all are whole seconds");
        write!(f, "{}{name}", self.0.as_secs() / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, again) in [("10s", "10s"), ("90s", "90s"), ("120s", "2m"), ("24h", "1d"), ("7d", "7d")] {
            let after: EvictAfter = text.parse().expect(text);
            assert_eq!(after.to_string(), again);
        }
        for wrong in ["", "s", "30", "9s", "0m", "-1h", "1.5h", "4000d", "99999999999999999999d", "1 h"] {
            assert!(wrong.parse::<EvictAfter>().is_err(), "{wrong}");
        }
    }
}
