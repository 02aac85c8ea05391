//! Lua values from JSON.

use std::sync::Arc;

use mlua::{IntoLua, LightUserData, Lua, Value as LuaValue};

use super::{DEPTH_MAX, Invalid, Settings};
use crate::lua::meter::Meter;
use crate::lua::{number, raise};

/// Returns the value of a JSON text.
pub(super) fn decode(lua: &Lua, text: &[u8], settings: &Settings) -> mlua::Result<LuaValue> {
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(raise::error(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut reader = Reader { lua, text, at: 0, settings, meter: Meter::of(lua) };
    let first = reader.token()?;
    let value = reader.value(first, 0)?;
    let last = reader.token()?;
    match last.kind {
        Kind::End => Ok(value),
        _ => Err(reader.unexpected("the end", &last)),
    }
}

struct Token {
    kind: Kind,
    /// Position of the token in the text, from 0.
    at: usize,
}

enum Kind {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Colon,
    Comma,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    End,
    Error(&'static str),
}

impl Kind {
    /// Returns the name of a token in error messages.
    fn name(&self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::String(_) => "T_STRING",
            Self::Number(_) => "T_NUMBER",
            Self::Boolean(_) => "T_BOOLEAN",
            Self::Null => "T_NULL",
            Self::End => "T_END",
            Self::Error(text) => text,
        }
    }
}

struct Reader<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
    settings: &'a Settings,
    meter: Arc<Meter>,
}

impl Reader<'_> {
    fn unexpected(&self, expected: &str, found: &Token) -> mlua::Error {
        let (name, position) = (found.kind.name(), found.at + 1);
        let text = format!("Expected {expected} but found {name} at character {position}");
        raise::error(self.lua, text)
    }

    fn value(&mut self, token: Token, depth: i64) -> mlua::Result<LuaValue> {
        match token.kind {
            Kind::String(text) => self.lua.create_string(text)?.into_lua(self.lua),
            Kind::Number(number) => Ok(LuaValue::Number(number)),
            Kind::Boolean(truth) => Ok(LuaValue::Boolean(truth)),
            Kind::ObjectBegin => self.object(depth + 1),
            Kind::ArrayBegin => self.array(depth + 1),
            Kind::Null => Ok(LuaValue::LightUserData(LightUserData(std::ptr::null_mut()))),
            _ => Err(self.unexpected("value", &token)),
        }
    }

    fn check_depth(&self, depth: i64) -> mlua::Result<()> {
        if depth <= self.settings.decode_depth_max.min(DEPTH_MAX) {
            return Ok(());
        }
        let at = self.at;
        let text = format!("Found too many nested data structures ({depth}) at character {at}");
        Err(raise::error(self.lua, text))
    }

    fn object(&mut self, depth: i64) -> mlua::Result<LuaValue> {
        self.check_depth(depth)?;
        let table = self.lua.create_table()?;
        let mut token = self.token()?;
        if matches!(token.kind, Kind::ObjectEnd) {
            return Ok(LuaValue::Table(table));
        }
        loop {
            let Kind::String(key) = token.kind else {
                return Err(self.unexpected("object key string", &token));
            };
            let colon = self.token()?;
            if !matches!(colon.kind, Kind::Colon) {
                return Err(self.unexpected("colon", &colon));
            }
            let first = self.token()?;
            let value = self.value(first, depth)?;
            self.meter.work(1)?;
            table.raw_set(self.lua.create_string(key)?, value)?;
            let next = self.token()?;
            match next.kind {
                Kind::ObjectEnd => return Ok(LuaValue::Table(table)),
                Kind::Comma => token = self.token()?,
                _ => return Err(self.unexpected("comma or object end", &next)),
            }
        }
    }

    fn array(&mut self, depth: i64) -> mlua::Result<LuaValue> {
        self.check_depth(depth)?;
        let table = self.lua.create_table()?;
        let mut token = self.token()?;
        if matches!(token.kind, Kind::ArrayEnd) {
            return Ok(LuaValue::Table(table));
        }
        for at in 1.. {
            let value = self.value(token, depth)?;
            self.meter.work(1)?;
            table.raw_set(at, value)?;
            let next = self.token()?;
            match next.kind {
                Kind::ArrayEnd => break,
                Kind::Comma => token = self.token()?,
                _ => return Err(self.unexpected("comma or array end", &next)),
            }
        }
        Ok(LuaValue::Table(table))
    }

    /// Returns a byte of the text, and zero behind its end.
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn token(&mut self) -> mlua::Result<Token> {
        while matches!(self.byte(self.at), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        let at = self.at;
        let simple = match self.byte(at) {
            b'{' => Kind::ObjectBegin,
            b'}' => Kind::ObjectEnd,
            b'[' => Kind::ArrayBegin,
            b']' => Kind::ArrayEnd,
            b':' => Kind::Colon,
            b',' => Kind::Comma,
            0 => return Ok(Token { kind: Kind::End, at }),
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => return Ok(self.number()),
            b't' if self.text[at..].starts_with(b"true") => {
                self.at += 4;
                return Ok(Token { kind: Kind::Boolean(true), at });
            }
            b'f' if self.text[at..].starts_with(b"false") => {
                self.at += 5;
                return Ok(Token { kind: Kind::Boolean(false), at });
            }
            b'n' if self.text[at..].starts_with(b"null") => {
                self.at += 4;
                return Ok(Token { kind: Kind::Null, at });
            }
            b'+' | b'i' | b'I' | b'n' | b'N'
                if self.settings.decode_invalid != Invalid::Refused && self.is_invalid_number() =>
            {
                return Ok(self.number());
            }
            _ => return Ok(Token { kind: Kind::Error("invalid token"), at }),
        };
        self.at += 1;
        Ok(Token { kind: simple, at })
    }

    /// Returns whether a number at this place is one of C that JSON does not have.
    fn is_invalid_number(&self) -> bool {
        if self.byte(self.at) == b'+' {
            return true;
        }
        let at = self.at + usize::from(self.byte(self.at) == b'-');
        match self.byte(at) {
            b'0' => matches!(self.byte(at + 1), b'x' | b'X' | b'0'..=b'9'),
            0..=b'9' => false,
            _ => {
                let word = self.text.get(at..at + 3).unwrap_or_default();
                word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"nan")
            }
        }
    }

    fn number(&mut self) -> Token {
        let at = self.at;
        if self.settings.decode_invalid == Invalid::Refused && self.is_invalid_number() {
            return Token { kind: Kind::Error("invalid number"), at };
        }
        match number::parse_prefix(&self.text[at..]) {
            Some((number, len)) => {
                self.at += len;
                Token { kind: Kind::Number(number), at }
            }
            None => Token { kind: Kind::Error("invalid number"), at },
        }
    }

    fn string(&mut self) -> mlua::Result<Token> {
        let begin = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let byte = self.byte(self.at);
            match byte {
                b'"' => break,
                0 => {
                    return Ok(Token {
                        kind: Kind::Error("unexpected end of string"),
                        at: self.at,
                    });
                }
                b'\\' => {
                    let at = self.at;
                    let plain = match self.byte(at + 1) {
                        byte @ (b'"' | b'\\' | b'/') => byte,
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            let Some((letter, len)) = self.unicode() else {
                                let kind = Kind::Error("invalid unicode escape code");
                                return Ok(Token { kind, at });
                            };
                            let mut bytes = [0; 4];
                            text.extend_from_slice(letter.encode_utf8(&mut bytes).as_bytes());
                            self.at += len;
                            continue;
                        }
                        _ => return Ok(Token { kind: Kind::Error("invalid escape code"), at }),
                    };
                    text.push(plain);
                    self.at += 2;
                }
                _ => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        self.meter.work((text.len() / 8) as u64)?;
        Ok(Token { kind: Kind::String(text), at: begin })
    }

    /// Returns the letter of an escape, or of two that are a surrogate pair, and its length.
    fn unicode(&self) -> Option<(char, usize)> {
        let high = self.hex(self.at + 2)?;
        if high & 0xf800 != 0xd800 {
            return Some((char::from_u32(high)?, 6));
        }
        if high & 0x400 != 0 || self.byte(self.at + 6) != b'\\' || self.byte(self.at + 7) != b'u' {
            return None;
        }
        let low = self.hex(self.at + 8)?;
        if low & 0xfc00 != 0xdc00 {
            return None;
        }
        let letter = ((high & 0x3ff) << 10 | (low & 0x3ff)) + 0x1_0000;
        Some((char::from_u32(letter)?, 12))
    }

    fn hex(&self, at: usize) -> Option<u32> {
        (at..at + 4)
            .try_fold(0, |number, at| Some(number * 16 + char::from(self.byte(at)).to_digit(16)?))
    }
}
