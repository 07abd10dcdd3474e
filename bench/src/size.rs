//! Amounts as people write them.

/// Reads an amount with a decimal (`K`, `M`, `G`) or binary (`Ki`, `Mi`, `Gi`) unit: `200M` is 200,000,000.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        unit => return Err(format!("unit {unit:?} is not known; write K, M, G, Ki, Mi or Gi")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not an amount; write it like 200M"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is more than can be counted"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn amounts() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("200M"), Ok(200_000_000));
        assert_eq!(parse("2Ki"), Ok(2048));
        for wrong in ["", "M", "1.5M", "-1", "5T", "99999999999G"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
