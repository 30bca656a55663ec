//! A number of bytes, as people write it.

use std::{fmt, str::FromStr};

/// Names of powers of two, and the powers.
const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// A number of bytes: `1048576`, `1024KiB` or `1MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Size, &'static str> {
        let unit = UNITS.iter().find_map(|(name, shift)| Some((text.strip_suffix(name)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: u64 =
            number.trim_end().parse().map_err(|_| "a size is a whole number of bytes, or one with KiB, MiB or GiB")?;
        number.checked_mul(1 << shift).map(Size).ok_or("no disk is as large")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match UNITS.into_iter().find(|(_, shift)| whole(*shift)) {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, bytes: Option<u64>, again: &str) {
        let size: Option<Size> = text.parse().ok();
        assert_eq!(size, bytes.map(Size), "{text}");
        assert_eq!(size.map(|size| size.to_string()).unwrap_or_default(), again, "{text}");
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        check("0", Some(0), "0");
        check("1500", Some(1500), "1500");
        check("2048", Some(2048), "2KiB");
        check("64MiB", Some(64 << 20), "64MiB");
        check("3 GiB", Some(3 << 30), "3GiB");
        check("1024MiB", Some(1 << 30), "1GiB");
        for wrong in ["", "MiB", "-1", "1.5MiB", "1MB", "1mib", "99999999999999999999", "99999999999GiB"] {
            check(wrong, None, "");
        }
    }
}
