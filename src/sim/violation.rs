//! The error of a broken rule, and the macro that checks one.

/// A violation of a rule. The text starts with the name of the rule (see the guide's page on
/// guarantees), and says which replica violated it and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Returns an error with a formatted [`Violation`] from the calling function unless the condition
/// is true.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::sim::violation::Violation(format!($($text)+)));
        }
    };
}
pub(in crate::sim) use ensure;
