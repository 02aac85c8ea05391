//! The error for a violated rule, and the macro that checks a rule.

/// The violation of a rule in a simulated run. The text starts with the rule's name (see the
/// guide's page on guarantees), and says which replica violated the rule and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Makes the calling function return a [`Violation`] with the formatted text, unless the condition
/// is true.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::sim::violation::Violation(format!($($text)+)));
        }
    };
}
pub(in crate::sim) use ensure;
