//! Fuzzes the rules of users: any text must be refused or be a rule that is shown as an equal one,
//! and the rules that show a user must make an equal user.

use bowline::kv::{Rule, User};

/// The entry point of the fuzzer: rules, one per line, that are applied to one user.
pub(crate) fn user_rules(bytes: &[u8]) {
    let mut user = User::default();
    for text in bytes.split(|byte| *byte == b'\n') {
        let Ok(Some(rule)) = Rule::parse(text) else { continue };
        let mut shown = Vec::new();
        rule.write(&mut shown);
        assert_eq!(Rule::parse(&shown), Ok(Some(rule.clone())), "{}", shown.escape_ascii());
        let before = user.clone();
        if user.apply(&rule).is_err() {
            // As a server does, which changes a copy.
            user = before;
        }
    }
    let mut again = User::default();
    for rule in user.rules() {
        // The rules about commands are one text.
        let is_selector = rule.starts_with(b"(");
        let words = rule.split(|byte| *byte == b' ' && !is_selector);
        for word in words {
            let rule = Rule::parse(word).expect("shown as a rule").expect("not empty");
            again.apply(&rule).expect("the rules of a user fit it");
        }
    }
    assert_eq!(again, user);
}
