//! Keyspace notifications: which events the setting `notify-keyspace-events` selects.

/// The value of the setting `notify-keyspace-events`: which keyspace events are published, and on
/// which kinds of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyspaceNotifications {
    /// Whether events are published on the channels `__keyspace@<database>__:<key>` (flag `K`).
    pub keyspace_channel: bool,
    /// Whether events are published on the channels `__keyevent@<database>__:<event>` (flag `E`).
    pub keyevent_channel: bool,
    /// The selected classes of events, as a bit set: bit i stands for letter i of [`CLASSES`].
    classes: u16,
}

/// Redis's letters for the classes of keyspace events. The letter `A`, which is not in this list,
/// selects all classes except the last two (`m` and `n`).
const CLASSES: &[u8] = b"g$lshzxetdmn";
const ALL_CLASSES: u16 = (1 << 10) - 1;

impl KeyspaceNotifications {
    /// Parses the value of `notify-keyspace-events`; `None` if it contains a letter that Redis does
    /// not define.
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

    /// Returns whether any keyspace events are published: at least one class of events and one kind
    /// of channel are selected.
    pub fn is_enabled(self) -> bool {
        (self.keyspace_channel || self.keyevent_channel) && self.classes != 0
    }

    /// Returns whether the event with this name, such as `expired`, is published.
    pub fn includes(self, event: &str) -> bool {
        let class = class_of(event);
        let bit = CLASSES.iter().position(|known| *known == class);
        bit.is_some_and(|bit| self.classes >> bit & 1 == 1)
    }
}

/// Returns the letter of the class to which the event with this name, such as `expired`, belongs.
fn class_of(event: &str) -> u8 {
    match event {
        "del" | "rename_from" | "rename_to" | "copy_to" | "move_from" | "move_to" | "expire"
        | "persist" | "restore" => b'g',
        "expired" => b'x',
        "evicted" => b'e',
        "new" => b'n',
        "keymiss" => b'm',
        "set" | "setrange" | "append" | "incrby" | "decrby" | "incrbyfloat" | "setbit"
        | "pfadd" => b'$',
        "geosearchstore" | "georadiusstore" => b'z',
        "sortstore" => b'l',
        _ => match event.as_bytes().first() {
            Some(b'h') => b'h',
            Some(b'x') => b't',
            Some(b'z') => b'z',
            Some(b'l' | b'r') => b'l',
            // All other events belong to set commands.
            _ => b's',
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_notify_keyspace_events_select_event_classes() {
        let parse = |text| KeyspaceNotifications::parse(text).unwrap();
        let includes = |text, event| parse(text).includes(event);
        assert!(includes("KEA", "set") && includes("KEA", "hset") && includes("Kx", "expired"));
        assert!(includes("E$", "pfadd") && includes("Ez", "geosearchstore"));
        assert!(includes("Et", "xadd") && !includes("Es", "xadd"));
        assert!(includes("El", "sortstore") && !includes("Es", "sortstore"));
        assert!(includes("Kt", "xadd") && includes("Kt", "xgroup-create"));
        assert!(!includes("Ks", "xadd") && !includes("Kt", "expired") && includes("Ks", "sadd"));
        assert!(includes("KEn", "new") && includes("KEm", "keymiss"));
        assert!(!includes("KEA", "keymiss") && !includes("KEm", "new"));
        assert!(!includes("Kx", "set") && !includes("KEA", "new") && includes("Ezl", "rpush"));
        assert!(parse("KEA").is_enabled());
        assert!(!parse("A").is_enabled() && !parse("K").is_enabled());
        assert_eq!(KeyspaceNotifications::parse("q"), None);
    }
}
