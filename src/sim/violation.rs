//! The error for a violated rule, and the macro that checks a rule.

/// The violation of a rule in a simulated run. The text starts with the name of the rule (see the
/// guide's page on guarantees), and says which replica violated the rule and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Unless the condition is true, returns from the calling function with an error: a [`Violation`]
/// with the formatted text.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::sim::violation::Violation(format!($($text)+)));
        }
    };
}
pub(in crate::sim) use ensure;
