//! Numbers as the reference's schemas take them: `"type": "number"` accepts `420`, `420.0` and `1.5` alike.
//!
//! Which of them make sense is for the module to say, when it runs.

use std::fmt;

use kiln_api::ModuleError;
use schemars::JsonSchema;
use serde::Deserialize;

/// Any JSON number.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Number(serde_json::Number);

impl Number {
    /// The number if it is whole; `420.0` is.
    pub(crate) fn whole(&self, option: &str) -> Result<i64, ModuleError> {
        // Within ±2^53 every whole number has exactly one floating-point form.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if let Some(number) = self.0.as_i64() {
            return Ok(number);
        }
        match self.0.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "checked: whole and in range")]
            Some(number) if number.fract() == 0.0 && number.abs() <= EXACT => Ok(number as i64),
            _ => Err(ModuleError::option(option, format!("`{self}` must be a whole number"))),
        }
    }

    /// The number if it can be the mode of a file.
    pub(crate) fn mode(&self, option: &str) -> Result<u32, ModuleError> {
        match self.whole(option)? {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: in range")]
            mode @ 0..=0o7777 => Ok(mode as u32),
            _ => {
                Err(ModuleError::option(option, format!("`{self}` must be between 0 and 4095 (octal 7777)")))
            }
        }
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        let cases =
            [("420", Some(420)), ("420.0", Some(420)), ("-1", Some(-1)), ("1.5", None), ("1e300", None)];
        for (text, expected) in cases {
            let number: Number = serde_json::from_str(text).expect("a number");
            assert_eq!(number.whole("mode").ok(), expected, "{text}");
        }
        for (text, expected) in [("511", Some(0o777)), ("4095", Some(0o7777)), ("4096", None), ("-1", None)] {
            let number: Number = serde_json::from_str(text).expect("a number");
            assert_eq!(number.mode("mode").ok(), expected, "{text}");
        }
    }
}
