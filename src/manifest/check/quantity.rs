//! Quantities: `500m`, `64Mi`, `1e3`.

use i2kit_spec::InstanceField;

/// A number and its unit, as an exact fraction of integers is not needed: thousandths are the finest that count.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quantity {
    /// In thousandths, rounded up as Kubernetes does.
    millis: u128,
    /// Whether the suffix was `m`.
    thousandths: bool,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::manifest) enum QuantityFault {
    /// Not of the form.
    Form,
    /// Below zero.
    Negative,
    /// More than 64 bits.
    TooLarge,
    /// Not of the form, and this would be.
    Near(String),
}

/// Processor time in thousandths of a core.
pub(in crate::manifest) fn cpu_millis(text: &str) -> Result<u64, QuantityFault> {
    u64::try_from(parse(text)?.millis).map_err(|_| QuantityFault::TooLarge)
}

/// Bytes, and whether they were given in thousandths.
pub(in crate::manifest) fn bytes(text: &str) -> Result<(u64, bool), QuantityFault> {
    let quantity = parse(text)?;
    let bytes = u64::try_from(quantity.millis.div_ceil(1000)).map_err(|_| QuantityFault::TooLarge)?;
    Ok((bytes, quantity.thousandths))
}

/// A resource of a container in units of a divisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) enum Divided {
    /// Rounded up.
    Amount(u64),
    /// Nothing is given, so that the machine's own size counts.
    Machine(InstanceField),
}

/// `amount` of the resource `name` in units of `divisor`; none when one of them is no quantity.
pub(in crate::manifest) fn divided(name: &str, amount: Option<&str>, divisor: &str) -> Option<Divided> {
    let read = |text: &str| match name {
        "cpu" => cpu_millis(text).ok(),
        _ => bytes(text).ok().map(|(size, _)| size),
    };
    // `0` and no divisor mean 1, as in Kubernetes.
    let divisor = match read(divisor)? {
        0 if name == "cpu" => 1000,
        0 => 1,
        divisor => divisor,
    };
    Some(match amount {
        Some(text) => Divided::Amount(read(text)?.div_ceil(divisor)),
        None if name == "cpu" => Divided::Machine(InstanceField::CpuMillis(divisor)),
        None => Divided::Machine(InstanceField::MemoryBytes(divisor)),
    })
}

/// Powers of 1000 or 1024 by suffix, as numerator and denominator of the factor to thousandths.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => (1000 * 10u128.pow(exponent.unsigned_abs()), 1),
                -9..=-1 => (1000, 10u128.pow(exponent.unsigned_abs())),
                _ => return None,
            }
        }
    })
}

fn parse(text: &str) -> Result<Quantity, QuantityFault> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityFault::Form);
    }
    let Some((up, down)) = factor(suffix) else { return Err(near(number, suffix)) };
    // More digits than this are beyond what 64 bits hold, or too fine to matter.
    let fraction = &fraction[..fraction.len().min(12)];
    if whole.trim_start_matches('0').len() > 20 {
        return Err(QuantityFault::TooLarge);
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| QuantityFault::TooLarge)?;
    if negative && digits > 0 {
        return Err(QuantityFault::Negative);
    }
    let millis = digits.checked_mul(up).ok_or(QuantityFault::TooLarge)?.div_ceil(scale * down);
    Ok(Quantity { millis, thousandths: suffix == "m" })
}

/// What a wrong suffix was probably meant to be.
fn near(number: &str, suffix: &str) -> QuantityFault {
    let meant = match suffix.trim().to_ascii_lowercase().as_str() {
        "kib" | "kb" | "ki" => "Ki",
        "mib" | "mb" | "mi" => "Mi",
        "gib" | "gb" | "gi" | "g" => "Gi",
        "tib" | "tb" | "ti" | "t" => "Ti",
        "pib" | "pb" | "pi" => "Pi",
        "k" => "k",
        "b" | "" => "",
        _ => return QuantityFault::Form,
    };
    QuantityFault::Near(format!("{number}{meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_and_round_up() {
        for (text, millis) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            ("1.5", 1500),
            ("1u", 1),
            ("2e1", 20000),
            (".1", 100),
            ("0.0001", 1),
        ] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for (text, size) in [
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("1k", 1000),
            ("1e3", 1000),
            ("1E", 1_000_000_000_000_000_000),
            ("128974848", 128_974_848),
            ("1e-3", 1),
        ] {
            assert_eq!(bytes(text), Ok((size, false)), "{text}");
        }
        assert_eq!(bytes("128m"), Ok((1, true)));
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        assert_eq!(divided("cpu", Some("1500m"), "1"), Some(Divided::Amount(2)));
        assert_eq!(divided("cpu", Some("1500m"), "1m"), Some(Divided::Amount(1500)));
        assert_eq!(divided("memory", Some("64Mi"), "1Mi"), Some(Divided::Amount(64)));
        assert_eq!(divided("memory", Some("64Mi"), "0"), Some(Divided::Amount(64 << 20)));
        assert_eq!(divided("memory", None, "1Ki"), Some(Divided::Machine(InstanceField::MemoryBytes(1024))));
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        assert_eq!(bytes("1.5Gib"), Err(QuantityFault::Near("1.5Gi".into())));
        assert_eq!(bytes("64MB"), Err(QuantityFault::Near("64Mi".into())));
        assert_eq!(bytes("64 Mi"), Err(QuantityFault::Near("64Mi".into())));
        assert_eq!(bytes("-1"), Err(QuantityFault::Negative));
        assert_eq!(bytes("16Ei"), Err(QuantityFault::TooLarge));
        for text in ["", ".", "Mi", "1.2.3", "1x", "0x10", "1e99", "--1", "1e"] {
            assert!(matches!(bytes(text), Err(QuantityFault::Form)), "{text}: {:?}", bytes(text));
        }
        let digits = "9".repeat(10_000);
        assert_eq!(bytes(&digits), Err(QuantityFault::TooLarge));
    }
}
