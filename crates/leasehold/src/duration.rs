use std::time::Duration;

use crate::error::{Error, Result};

/// Reads a duration as people write it: whole numbers with `ms`, `s`, `m`, `h` or `d`, such as `500ms`, `5s` or `1h 30m`.
///
/// The command line, the options of URLs, and bindings to other languages read durations with this function. A number
/// without a unit is refused, unless it is `0`: whether it would be seconds or milliseconds, one half of all programs
/// guess wrong.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) if the text is anything else, or too large.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(leasehold::parse_duration("1h 30m")?, Duration::from_secs(5400));
/// assert!(leasehold::parse_duration("5").is_err());
/// # Ok::<(), leasehold::Error>(())
/// ```
pub fn parse_duration(text: &str) -> Result<Duration> {
    read(text).ok_or_else(|| {
        let shown = text.chars().take(40).collect::<String>();
        Error::invalid(format!(
            "a duration is a number with a unit (ms s m h d), such as 500ms, 5s, 2m or 1h duration=`{}`",
            shown.escape_debug()
        ))
    })
}

fn read(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut millis = None;
    while !rest.is_empty() {
        let number = take(&mut rest, |c| c.is_ascii_digit()).parse::<u64>().ok()?;
        let unit = match take(&mut rest, char::is_alphabetic) {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = Some(number.checked_mul(unit)?.checked_add(millis.unwrap_or(0))?);
    }
    millis.map(Duration::from_millis)
}

/// Takes the characters of one kind off the front of the text, and the spaces behind them.
fn take<'a>(text: &mut &'a str, kind: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !kind(c)).unwrap_or(text.len());
    let (taken, rest) = text.split_at(end);
    *text = rest.trim_start();
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        let cases = [
            ("500ms", 500),
            ("5s", 5000),
            ("2m", 120_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            (" 1 d ", 86_400_000),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text).expect(text), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_shown() {
        let long = "9".repeat(99);
        for bad in [
            "",
            " ",
            "5",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1M",
            "1month",
            "1 2s",
            "5s 1",
            "٣s",
            "18446744073709551615s",
            &long,
        ] {
            let error = parse_duration(bad).expect_err(bad);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().len() < 200, "{error}");
        }
        assert!(
            parse_duration("5 parsecs").expect_err("no unit").to_string().ends_with("duration=`5 parsecs`")
        );
    }
}
