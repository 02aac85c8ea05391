//! Workloads: those of YCSB, and simple mixes of operations.

use anyhow::{Context as _, bail, ensure};
use bowline::sim::rng::Rng;

use super::keys::{Distribution, unit};

/// A kind of operation in a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Reads a key.
    Read,
    /// Writes an existing key.
    Update,
    /// Writes a new key.
    Insert,
    /// Reads up to 100 consecutive keys, starting at a random key.
    Scan,
    /// Reads a key and then writes it.
    ReadModifyWrite,
}

/// All kinds of operations, in the order of [`Kind::place`].
pub(crate) const KINDS: [Kind; 5] =
    [Kind::Read, Kind::Update, Kind::Insert, Kind::Scan, Kind::ReadModifyWrite];

impl Kind {
    /// Returns the name of this kind of operation as used in options and results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Update => "update",
            Kind::Insert => "insert",
            Kind::Scan => "scan",
            Kind::ReadModifyWrite => "read_modify_write",
        }
    }

    /// Returns the index of this kind of operation in [`KINDS`].
    pub(crate) fn place(self) -> usize {
        self as usize
    }
}

/// A workload: the fraction of operations of each kind, and the distribution of keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mix {
    /// Name of the workload as used in results.
    pub(crate) name: String,
    /// Fraction of operations of each kind, in the order of [`KINDS`]; the fractions add up to 1.
    pub(crate) shares: [f64; 5],
    /// Distribution from which keys are drawn if the command line names no other.
    pub(crate) distribution: Distribution,
}

impl Mix {
    /// Parses the argument of `--workload`: YCSB's `a` to `f`, `set`, `get`, or shares such as
    /// `read=90,update=10`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Mix> {
        use Distribution::{Latest, Uniform, Zipfian};
        let built_in = |name: &str, shares, distribution| {
            Ok(Mix { name: name.to_owned(), shares, distribution })
        };
        match text.to_ascii_lowercase().as_str() {
            "a" => built_in("ycsb-a", [0.5, 0.5, 0.0, 0.0, 0.0], Zipfian),
            "b" => built_in("ycsb-b", [0.95, 0.05, 0.0, 0.0, 0.0], Zipfian),
            "c" => built_in("ycsb-c", [1.0, 0.0, 0.0, 0.0, 0.0], Zipfian),
            "d" => built_in("ycsb-d", [0.95, 0.0, 0.05, 0.0, 0.0], Latest),
            "e" => built_in("ycsb-e", [0.0, 0.0, 0.05, 0.95, 0.0], Zipfian),
            "f" => built_in("ycsb-f", [0.5, 0.0, 0.0, 0.0, 0.5], Zipfian),
            "set" => built_in("set", [0.0, 1.0, 0.0, 0.0, 0.0], Uniform),
            "get" => built_in("get", [1.0, 0.0, 0.0, 0.0, 0.0], Uniform),
            shares if shares.contains('=') => Mix::parse_shares(shares),
            _ => bail!(
                "--workload {text}: unknown workload; use a to f (YCSB), set, get, or shares such \
                 as read=90,update=10"
            ),
        }
    }

    fn parse_shares(text: &str) -> anyhow::Result<Mix> {
        let mut shares = [0.0; 5];
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, ""));
            let kind = KINDS.iter().find(|kind| kind.name() == name).with_context(|| {
                let names = KINDS.map(Kind::name).join(", ");
                format!(
                    "--workload {text}: unknown kind of operation `{name}`; valid kinds are {names}"
                )
            })?;
            let number: f64 = share.parse().unwrap_or(f64::NAN);
            ensure!(
                number.is_finite() && number >= 0.0,
                "--workload {text}: invalid share `{share}`; must be a number that is at least 0"
            );
            shares[kind.place()] += number;
        }
        let sum: f64 = shares.iter().sum();
        ensure!(
            sum > 0.0,
            "--workload {text}: all shares of operations are 0; give at least one above 0"
        );
        let shares = shares.map(|share| share / sum);
        Ok(Mix { name: "mix".to_owned(), shares, distribution: Distribution::Uniform })
    }

    /// Returns whether the workload contains operations of this kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.shares[kind.place()] > 0.0
    }

    /// Draws the kind of the next operation at random, according to the workload's fractions.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Kind {
        // Most workloads have a single kind, which needs no random number.
        if let Some(place) = self.shares.iter().position(|&share| share >= 1.0) {
            return KINDS[place];
        }
        let mut rest = unit(rng);
        for kind in KINDS {
            rest -= self.shares[kind.place()];
            if rest < 0.0 {
                return kind;
            }
        }
        // Reached only through rounding errors: use the last kind of the workload.
        *KINDS.iter().rfind(|kind| self.has(**kind)).expect("shares add up to 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_operation_types_match_the_configured_ratio() {
        for name in ["a", "b", "C", "d", "e", "f", "set", "get", "read=3,insert=1"] {
            let mix = Mix::parse(name).unwrap();
            let mut rng = Rng::new(9);
            let mut counts = [0_u32; 5];
            for _ in 0..100_000 {
                counts[mix.draw(&mut rng).place()] += 1;
            }
            for (&count, share) in counts.iter().zip(mix.shares) {
                let off = f64::from(count) - share * 100_000.0;
                assert!(off.abs() < 800.0, "{name}: {counts:?}");
                assert!(share > 0.0 || count == 0, "{name}: {counts:?}");
            }
        }
    }

    #[test]
    fn invalid_operation_mix_is_rejected_with_the_reason() {
        for (text, word) in [
            ("g", "a to f"),
            ("", "a to f"),
            ("read=1,write=2", "`write`"),
            ("read=x", "`x`"),
            ("read=-1,update=2", "`-1`"),
            ("read=inf", "`inf`"),
            ("read=0", "all shares of operations are 0"),
        ] {
            let error = Mix::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
