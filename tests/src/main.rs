//! `cargo run -p tests --release -- soak NAME`: a promise in its full size, with the figure to publish.

use std::process::ExitCode;

use tests::soak;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["soak", name] = words[..] else { return usage() };
    let kept = match name {
        "kill" => {
            let figures = soak::kill_during_creates(100, 10_000, 8);
            println!("P01 P02 {figures}");
            figures.kept()
        }
        _ => return usage(),
    };
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("usage: soak NAME, where NAME is one of: kill");
    ExitCode::from(2)
}
