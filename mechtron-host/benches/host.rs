//! What a turn, an activation and a sleeping mechtron cost.

fn main() {}
