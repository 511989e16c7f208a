//! The chapter of several nodes: they join, mechtrons live where they say, and go on when a node dies.

use super::story::{Broken, Story};

/// The nodes that join.
const EDGE: &str = "edge-1";
const DESKTOP: &str = "desktop-1";

pub(super) fn three_nodes(story: &mut Story) -> Result<(), Broken> {
    story.chapter("Three nodes, one mesh");
    story.say("A token lets one node in, once, for ten minutes. It pins the authority that this mesh made at its first");
    story.say("start: whoever answers at the address must be certified by it before anything is sent.");
    story.join(EDGE, "tier=edge")?;
    story.join(DESKTOP, "tier=desktop")?;
    story.say(
        "Both only dial out, as from behind a router; all links are QUIC with certificates on both ends.",
    );
    let nodes = story.until("all three see each other", &["node", "list"], |out| {
        out.lines().filter(|line| line.contains(" Ready")).count() == 3
    })?;
    story.check("the edge node is known by its label", "tier=edge", &nodes)?;

    story.say("");
    story.run(&["request", "shop:cart^Ext<AddItem>", r#"{"article": "apple", "count": 1}"#])?;
    story.say(
        "The cart is to live at the edge, the validator on the desktop, or at the edge if there is none:",
    );
    story.run(&["set", r#"shop:cart{ +place=[tier = "edge"] }"#])?;
    story.run(&["set", r#"shop:validator{ +place=[tier = "desktop" or tier = "edge"] }"#])?;
    story.until("the cart moved", &["why", "shop:cart"], |out| lives(out, EDGE))?;
    story.run(&["move", "shop:validator", "--to", DESKTOP])?;
    let why = story.run(&["why", "shop:validator"])?;
    story.check("and the validator; anybody can ask why it is where it is", DESKTOP, &why)?;

    story.say("");
    story.say("An item goes to the validator first and then to the cart, each on its own node:");
    let cart = story.run(&["request", "shop:cart^Ext<AddItem>", r#"{"article": "pear", "count": 2}"#])?;
    story.check("the cart took along what it had when it moved", r#""apple":1"#, &cart)?;
    story.check("and has the new item", r#""pear":2"#, &cart)?;
    let receipt = story.run(&["request", "shop:cart^Ext<Checkout>"])?;
    story.check("on checkout the edge asked the desktop", r#""cents":120"#, &receipt)?;
    let way = story.run_on(EDGE, &["trace", "shop:validator"])?;
    story.check("over the cloud, in two hops", "cloud", &way)?;
    story.check("each with its time", DESKTOP, &way)?;

    story.say("");
    story.say("The desktop loses its power:");
    story.kill(DESKTOP)?;
    story.until(
        "the validator answers on another node",
        &["request", "shop:cart^Ext<AddItem>", r#"{"article": "plum", "count": 1}"#],
        |out| out.contains(r#""plum":1"#),
    )?;
    let why = story.run(&["why", "shop:validator"])?;
    story.check("which is the one that still matches", EDGE, &why)?;
    let nodes = story.run(&["node", "describe", DESKTOP])?;
    story.check("and the mesh knows who is gone", "Unknown", &nodes)
}

/// Whether `starlane why` says that something lives on a node.
fn lives(out: &str, node: &str) -> bool {
    out.lines().next().is_some_and(|line| line.contains(&format!(" on {node} ")))
}
