//! Lua's patterns, with a bound on the work of a match and on its recursion. Lua's own matcher has
//! neither: a pattern can keep it busy for years, or overflow the stack.

/// Captures of one pattern, at most.
const CAPTURES_MAX: usize = 32;

/// How deep a match may recurse: about as many repetitions and captures as a pattern may have.
const DEPTH_MAX: usize = 500;

/// Why a pattern does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PatternError {
    /// The pattern is wrong, in Lua's words.
    Malformed(&'static str),
    /// The work that was allowed is used up; more may be granted, or the script is ended.
    Exhausted,
}

/// A part of the subject that a match captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// Bytes from a position, and their number.
    Range(usize, usize),
    /// A position in the subject, from 0: `()` in the pattern.
    Position(usize),
    /// A capture whose end has not been reached yet.
    Open(usize),
}

/// One pattern applied to one subject.
pub(super) struct Matcher<'a, W: FnMut() -> bool> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: Vec<Capture>,
    steps: u32,
    /// Called after each 1,000 steps: whether the match may go on.
    work: W,
}

type Found = Result<Option<usize>, PatternError>;

impl<'a, W: FnMut() -> bool> Matcher<'a, W> {
    /// Returns a matcher for a pattern without its `^`.
    pub(super) fn new(subject: &'a [u8], pattern: &'a [u8], work: W) -> Self {
        Self { subject, pattern, captures: Vec::new(), steps: 0, work }
    }

    /// Matches the pattern at a position of the subject, and returns where the match ends.
    pub(super) fn match_at(&mut self, at: usize) -> Found {
        self.captures.clear();
        self.do_match(at, 0, 0)
    }

    /// Returns a capture of the last match, which was from `begin` to `end`; the whole match if the
    /// pattern captures nothing and `index` is 0.
    pub(super) fn capture(
        &self,
        index: usize,
        begin: usize,
        end: usize,
    ) -> Result<Capture, PatternError> {
        match self.captures.get(index) {
            Some(Capture::Open(_)) => Err(PatternError::Malformed("unfinished capture")),
            Some(capture) => Ok(*capture),
            None if index == 0 => Ok(Capture::Range(begin, end - begin)),
            None => Err(PatternError::Malformed("invalid capture index")),
        }
    }

    /// Returns how many captures the last match has.
    pub(super) fn count(&self) -> usize {
        self.captures.len()
    }

    fn step(&mut self) -> Result<(), PatternError> {
        self.steps += 1;
        if self.steps >= 1000 {
            self.steps = 0;
            if !(self.work)() {
                return Err(PatternError::Exhausted);
            }
        }
        Ok(())
    }

    /// Returns a byte of the pattern, and zero behind its end, as C does.
    fn pattern(&self, at: usize) -> u8 {
        self.pattern.get(at).copied().unwrap_or(0)
    }

    fn do_match(&mut self, mut at: usize, mut p: usize, depth: usize) -> Found {
        if depth > DEPTH_MAX {
            return Err(PatternError::Malformed("pattern too complex"));
        }
        loop {
            self.step()?;
            match self.pattern(p) {
                b'(' if self.pattern(p + 1) == b')' => {
                    return self.start_capture(at, p + 2, Capture::Position(at), depth);
                }
                b'(' => return self.start_capture(at, p + 1, Capture::Open(at), depth),
                b')' => return self.end_capture(at, p + 1, depth),
                b'%' if self.pattern(p + 1) == b'b' => {
                    let Some(end) = self.match_balance(at, p + 2)? else { return Ok(None) };
                    at = end;
                    p += 4;
                    continue;
                }
                b'%' if self.pattern(p + 1) == b'f' => {
                    p += 2;
                    if self.pattern(p) != b'[' {
                        return Err(PatternError::Malformed("missing '[' after '%f' in pattern"));
                    }
                    let end = self.class_end(p)?;
                    let previous = if at == 0 { 0 } else { self.subject[at - 1] };
                    let next = self.subject.get(at).copied().unwrap_or(0);
                    if self.in_set(previous, p, end - 1) || !self.in_set(next, p, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                    continue;
                }
                b'%' if self.pattern(p + 1).is_ascii_digit() => {
                    let Some(end) = self.match_capture(at, self.pattern(p + 1))? else {
                        return Ok(None);
                    };
                    at = end;
                    p += 2;
                    continue;
                }
                0 => return Ok(Some(at)),
                b'$' if self.pattern(p + 1) == 0 => {
                    return Ok((at == self.subject.len()).then_some(at));
                }
                _ => {}
            }
            let end = self.class_end(p)?;
            let matches = self.single(at, p, end);
            match self.pattern(end) {
                b'?' => {
                    if matches && let Some(found) = self.do_match(at + 1, end + 1, depth + 1)? {
                        return Ok(Some(found));
                    }
                    p = end + 1;
                }
                b'*' => return self.max_expand(at, p, end, depth),
                b'+' if matches => return self.max_expand(at + 1, p, end, depth),
                b'-' => return self.min_expand(at, p, end, depth),
                _ if !matches => return Ok(None),
                _ => {
                    at += 1;
                    p = end;
                }
            }
        }
    }

    fn start_capture(&mut self, at: usize, p: usize, capture: Capture, depth: usize) -> Found {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(PatternError::Malformed("too many captures"));
        }
        let level = self.captures.len();
        self.captures.push(capture);
        let found = self.do_match(at, p, depth + 1)?;
        if found.is_none() {
            self.captures.truncate(level);
        }
        Ok(found)
    }

    fn end_capture(&mut self, at: usize, p: usize, depth: usize) -> Found {
        let open = self.captures.iter().rposition(|capture| matches!(capture, Capture::Open(_)));
        let Some(index) = open else {
            return Err(PatternError::Malformed("invalid pattern capture"));
        };
        let Capture::Open(begin) = self.captures[index] else { return Ok(None) };
        self.captures[index] = Capture::Range(begin, at - begin);
        let found = self.do_match(at, p, depth + 1)?;
        if found.is_none() {
            self.captures[index] = Capture::Open(begin);
        }
        Ok(found)
    }

    fn match_balance(&mut self, at: usize, p: usize) -> Found {
        let (open, close) = (self.pattern(p), self.pattern(p + 1));
        if open == 0 || close == 0 {
            return Err(PatternError::Malformed("unbalanced pattern"));
        }
        if self.subject.get(at) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for end in at + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[end];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(end + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// Matches what an earlier capture matched.
    fn match_capture(&mut self, at: usize, digit: u8) -> Found {
        let index = usize::from(digit.wrapping_sub(b'1'));
        let (begin, len) = match self.captures.get(index) {
            Some(Capture::Range(begin, len)) => (*begin, *len),
            // Lua compares with a length of -2 here, which is larger than any subject.
            Some(Capture::Position(_)) => return Ok(None),
            _ => return Err(PatternError::Malformed("invalid capture index")),
        };
        self.steps = self.steps.saturating_add(u32::try_from(len / 16).unwrap_or(u32::MAX));
        let captured = &self.subject[begin..begin + len];
        Ok(self.subject[at..].starts_with(captured).then_some(at + len))
    }

    fn max_expand(&mut self, at: usize, p: usize, end: usize, depth: usize) -> Found {
        let mut count = 0;
        while self.single(at + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.do_match(at + count, end + 1, depth + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn min_expand(&mut self, mut at: usize, p: usize, end: usize, depth: usize) -> Found {
        loop {
            if let Some(found) = self.do_match(at, end + 1, depth + 1)? {
                return Ok(Some(found));
            }
            if !self.single(at, p, end) {
                return Ok(None);
            }
            at += 1;
        }
    }

    /// Returns the position behind a single-character class.
    fn class_end(&self, mut p: usize) -> Result<usize, PatternError> {
        let first = self.pattern(p);
        p += 1;
        match first {
            b'%' => {
                if self.pattern(p) == 0 {
                    return Err(PatternError::Malformed("malformed pattern (ends with '%')"));
                }
                Ok(p + 1)
            }
            b'[' => {
                if self.pattern(p) == b'^' {
                    p += 1;
                }
                loop {
                    let byte = self.pattern(p);
                    if byte == 0 {
                        return Err(PatternError::Malformed("malformed pattern (missing ']')"));
                    }
                    p += 1;
                    if byte == b'%' && self.pattern(p) != 0 {
                        p += 1;
                    }
                    if self.pattern(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p),
        }
    }

    /// Returns whether the byte at a position of the subject is in the class from `p` to `end`.
    fn single(&self, at: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.subject.get(at) else { return false };
        match self.pattern(p) {
            b'.' => true,
            b'%' => in_class(byte, self.pattern(p + 1)),
            b'[' => self.in_set(byte, p, end - 1),
            plain => plain == byte,
        }
    }

    /// Returns whether a byte is in the set from `[` at `p` to `]` at `end`.
    fn in_set(&self, byte: u8, mut p: usize, end: usize) -> bool {
        let mut inside = true;
        if self.pattern(p + 1) == b'^' {
            inside = false;
            p += 1;
        }
        p += 1;
        while p < end {
            if self.pattern(p) == b'%' {
                p += 1;
                if in_class(byte, self.pattern(p)) {
                    return inside;
                }
            } else if self.pattern(p + 1) == b'-' && p + 2 < end {
                if (self.pattern(p)..=self.pattern(p + 2)).contains(&byte) {
                    return inside;
                }
                p += 2;
            } else if self.pattern(p) == byte {
                return inside;
            }
            p += 1;
        }
        !inside
    }
}

/// Returns whether a byte is in a class such as `%a`, in the C locale.
fn in_class(byte: u8, class: u8) -> bool {
    let inside = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    inside != class.is_ascii_uppercase()
}
