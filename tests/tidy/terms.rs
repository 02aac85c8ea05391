//! Checks for banned phrases and old names in the code: in comments, strings and identifiers.

use super::source::line_of;

/// Phrases that have a standard term, with the standard term. A phrase is matched at the beginning
/// of a word. A blank in it also matches the underscore of an identifier. Only unambiguous phrases
/// are listed: `listener`, for example, is right for a socket.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "name the actor"),
    ("somebody", "name the actor"),
    ("what came of", "the outcome"),
    ("what comes of", "the outcome"),
    ("what became of", "the outcome"),
    ("so many times", "a number of times"),
    ("for so long", "a duration, with its unit"),
    ("that much", "a number, with its unit"),
    ("by and by", "gradually"),
    ("letting go", "background deletion"),
    ("lets go", "deletes, releases or resumes"),
    ("let go of", "delete or release"),
    ("vouch", "acknowledge"),
    ("was not done", "was not applied"),
    ("is told no", "is rejected"),
    ("patience", "timeout"),
    ("heir", "transfer target"),
    ("hand over the lead", "leadership transfer"),
    ("hands over the lead", "leadership transfer"),
    ("give up the lead", "step down"),
    ("gives up the lead", "steps down"),
    ("changes of leader", "leader changes"),
    ("changes of membership", "membership changes"),
    ("memory of requests", "deduplication table"),
    ("keys end", "keys expire"),
    ("key ends", "the key expires"),
    ("key that ends", "key that expires"),
    ("who listens", "subscribers"),
    ("what befalls", "keyspace notifications"),
    ("wrong clocks", "clock skew"),
    ("log's clock", "the replicated clock"),
    ("lateness", "delay"),
    ("cut the log", "compact the log"),
    ("cuts its log", "compacts its log"),
    ("log is cut", "the log is compacted"),
    ("cut behind", "compacted behind"),
    ("short of room", "low disk space"),
    ("want of room", "lack of disk space"),
    ("dice", "random seed, or Rng"),
    ("mishaps", "fault counts"),
    ("departures", "outbound queue"),
    ("safety.md", "a rule of the guide"),
    ("design.md", "a page of the guide"),
    ("house.md", "a page of the guide"),
    ("writing.md", "a page of the guide"),
];

/// Returns a violation for each banned phrase in a file of Rust source.
pub(crate) fn check(path: &str, text: &str) -> Vec<String> {
    // These files contain the list itself, or tests of such lists.
    if path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    let lower = text.to_lowercase().replace('_', " ");
    let mut complaints = Vec::new();
    for (phrase, better) in BANNED {
        for (at, _) in lower.match_indices(phrase) {
            let is_inside = lower[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            if !is_inside {
                let line = line_of(&lower, at);
                complaints.push(format!("{path}:{line}: not \"{phrase}\" but: {better}"));
            }
        }
    }
    complaints
}

#[test]
fn banned_words_in_code_and_comments_are_reported() {
    let count = |text: &str| check("src/raft/log.rs", text).len();
    assert_eq!(count("// Whoever reads\nlet patience = 1;\nconst PATIENCE_MAX: u8 = 2;"), 3);
    assert_eq!(count("fn keys_end() { \"so many times\" }"), 2);
    assert_eq!(count("// their, indices, impatience"), 0);
    assert_eq!(
        check("src/raft/log.rs", "\n// vouched for"),
        ["src/raft/log.rs:2: not \"vouch\" but: acknowledge"]
    );
    assert_eq!(check("tests/tidy/terms.rs", "// whoever").len(), 0);
}
