//! The host's log, which a line reaches before the run that wrote it ends.

use crate::cx::Level;

#[expect(unsafe_code, reason = "what the host gives is declared as foreign")]
#[link(wasm_import_module = "mechtron")]
unsafe extern "C" {
    // The host checks that the text is in the memory, and keeps none of it.
    safe fn mechtron_log(level: i32, address: i32, length: i32);
}

/// Writes a line.
pub(crate) fn write(level: Level, line: &str) {
    mechtron_log(level as i32, line.as_ptr() as usize as i32, line.len() as i32);
}

/// Lets what a panic says reach the log before the trap that it ends in.
pub(crate) fn panics() {
    std::panic::set_hook(Box::new(|panic| write(Level::Error, &panic.to_string())));
}
