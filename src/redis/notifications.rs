//! Keyspace notifications: which events the setting `notify-keyspace-events` selects.

/// The events that are published, and the channels they are published on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyspaceNotifications {
    /// Publish on `__keyspace@0__:<key>` (`K`).
    pub keyspace_channel: bool,
    /// Publish on `__keyevent@0__:<event>` (`E`).
    pub keyevent_channel: bool,
    /// Selected classes, one bit for each letter of [`CLASSES`].
    classes: u16,
}

/// Redis's letters for event classes. `A` selects all but the last two.
const CLASSES: &[u8] = b"g$lshzxetdmn";
const ALL_CLASSES: u16 = (1 << 10) - 1;

impl KeyspaceNotifications {
    /// Parses the setting's value; `None` if it has a letter that Redis does not know.
    pub fn parse(text: &str) -> Option<KeyspaceNotifications> {
        let mut events = KeyspaceNotifications::default();
        for letter in text.bytes() {
            match letter {
                b'K' => events.keyspace_channel = true,
                b'E' => events.keyevent_channel = true,
                b'A' => events.classes |= ALL_CLASSES,
                _ => {
                    events.classes |= 1 << CLASSES.iter().position(|class| *class == letter)?;
                }
            }
        }
        Some(events)
    }

    /// Whether any event is published at all: a class and one of the channels are selected.
    pub fn is_enabled(self) -> bool {
        (self.keyspace_channel || self.keyevent_channel) && self.classes != 0
    }

    /// Whether the event of that name is published.
    pub fn includes(self, event: &str) -> bool {
        let class = class_of(event);
        let bit = CLASSES.iter().position(|known| *known == class);
        bit.is_some_and(|bit| self.classes >> bit & 1 == 1)
    }
}

/// The class that an event belongs to.
fn class_of(event: &str) -> u8 {
    match event {
        "del" | "rename_from" | "rename_to" | "copy_to" | "move_from" | "move_to" | "expire"
        | "persist" | "restore" => b'g',
        "expired" => b'x',
        "evicted" => b'e',
        "new" => b'n',
        "set" | "setrange" | "append" | "incrby" | "decrby" | "incrbyfloat" | "setbit" => b'$',
        _ => match event.as_bytes().first() {
            Some(b'h') => b'h',
            Some(b'z') => b'z',
            Some(b'l' | b'r') => b'l',
            // All other events are those of set commands.
            _ => b's',
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_select_event_classes() {
        let parse = |text| KeyspaceNotifications::parse(text).unwrap();
        let includes = |text, event| parse(text).includes(event);
        assert!(includes("KEA", "set") && includes("KEA", "hset") && includes("Kx", "expired"));
        assert!(!includes("Kx", "set") && !includes("KEA", "new") && includes("Ezl", "rpush"));
        assert!(parse("KEA").is_enabled());
        assert!(!parse("A").is_enabled() && !parse("K").is_enabled());
        assert_eq!(KeyspaceNotifications::parse("q"), None);
    }
}
