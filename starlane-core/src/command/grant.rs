//! Permissions as commands write them.

use std::fmt;

use crate::Selector;

/// What `grant` does.
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    /// `grant perm +csd-RwX on SELECTOR to SELECTOR`
    Permission {
        /// What is added or masked.
        mask: Mask,
        /// On which resources.
        on: Selector,
        /// For which agents.
        to: Selector,
    },
    /// `grant priv NAME on SELECTOR to SELECTOR`
    Privilege {
        /// The name of the privilege.
        name: String,
        /// On which resources.
        on: Selector,
        /// For which agents.
        to: Selector,
    },
    /// `grant super on SELECTOR to SELECTOR`
    Super {
        /// On which resources.
        on: Selector,
        /// For which agents.
        to: Selector,
    },
    /// `grant list on SELECTOR`
    List {
        /// On which resources.
        on: Selector,
    },
    /// `grant revoke N`
    Revoke {
        /// The number of the grant, as `grant list` shows it.
        number: u64,
    },
}

/// A change of rights: `+csd-RwX` adds what is written large, `&csd-RwX` takes away what is written small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// How it changes them.
    pub mode: MaskMode,
    /// Which rights.
    pub rights: Rights,
}

/// How a mask changes rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskMode {
    /// `+`: those that are on are added.
    Add,
    /// `&`: only those that are on stay.
    Keep,
}

/// Rights on the children of a resource (`CSD`) and on the resource itself (`RWX`); capitals are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// To create children.
    pub create: bool,
    /// To select children.
    pub select: bool,
    /// To delete children.
    pub delete: bool,
    /// To read it.
    pub read: bool,
    /// To write it.
    pub write: bool,
    /// To send messages to it.
    pub execute: bool,
}

impl Rights {
    /// Reads `csd-RwX`; `None` when it is not that.
    pub(super) fn read(text: &str) -> Option<Self> {
        let [c, s, d, b'-', r, w, x] = *text.as_bytes() else { return None };
        let on = |found: u8, letter: u8| {
            (found.eq_ignore_ascii_case(&letter)).then_some(found.is_ascii_uppercase())
        };
        Some(Self {
            create: on(c, b'C')?,
            select: on(s, b'S')?,
            delete: on(d, b'D')?,
            read: on(r, b'R')?,
            write: on(w, b'W')?,
            execute: on(x, b'X')?,
        })
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |on: bool, letter: &'static str, off: &'static str| if on { letter } else { off };
        write!(
            f,
            "{}{}{}-{}{}{}",
            letter(self.create, "C", "c"),
            letter(self.select, "S", "s"),
            letter(self.delete, "D", "d"),
            letter(self.read, "R", "r"),
            letter(self.write, "W", "w"),
            letter(self.execute, "X", "x"),
        )
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.mode {
            MaskMode::Add => "+",
            MaskMode::Keep => "&",
        };
        write!(f, "{sign}{}", self.rights)
    }
}
