//! How nodes learn of each other and where frames go next: link state, as a pure state machine.
//!
//! Each node advertises its own links, signed and numbered ([`Advert`]). Neighbours pass adverts on, so that every node
//! knows the same graph and computes its own shortest paths over it ([`Routes`]). What keeps this right:
//!
//! * **A link counts when both its ends advertise it.** A node that died, or was cut off in one direction, loses its
//!   links as soon as a live neighbour says so, long before its own advert ages out.
//! * **A newer advert replaces an older one, never the other way round** ([`Edition`]), and an advert is passed on once.
//! * **A new link begins with a digest each way**, so that two halves of a mesh that was split exchange what the other
//!   lacks and nothing else.
//! * **What a neighbour is owed is a set of names, not a queue of packets.** A slow link gets the newest state of each
//!   node once, and can never be owed more than there are nodes.
//! * **Leaves carry nothing for others**: neither frames nor adverts.
//!
//! [`LinkState`] holds the rules. It reads no clock and does no I/O: the caller says what happened and when, and does
//! what [`LinkState::poll_action`] answers.

mod advert;
mod neighbour;
mod packet;
mod routes;
mod state;

pub use advert::{
    Advert, CHAIN_BYTES_MAX, Cost, Edition, Identity, LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX,
    LABELS_BYTES_MAX, LABELS_MAX, LINKS_MAX, Link, MORE_BYTES_MAX, Own, SIGNATURE_BYTES_MAX, Sign, Verify,
};
pub use neighbour::PACKETS_IN_FLIGHT_MAX;
pub use packet::{ADVERTS_MAX, Carried, Digest, Malformed, PACKET_BYTES_MAX, Packet, SEEN_MAX, Seen};
pub use routes::{Member, Route, Routes};
pub use state::{Action, Config, Counters, LinkState, LinksFull};
