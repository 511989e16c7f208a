//! `orders serve`, `orders make COUNT`, `orders watch`; finds its node by `STARLANE_DATA`, or `STARLANE_API` and
//! `STARLANE_TOKEN`.

use std::process::ExitCode;

use starlane_client::{Client, Config, Error};

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve"] => serve().await,
        ["make", count] => match count.parse() {
            Ok(count) => make(count).await,
            Err(error) => {
                eprintln!("orders: `{count}` is no count: {error}");
                return ExitCode::from(2);
            }
        },
        ["watch"] => watch().await,
        _ => {
            eprintln!("usage: orders serve | make COUNT | watch");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn connect() -> Result<Client, Error> {
    Client::connect(Config { name: "orders".to_owned(), ..Config::local()? }).await
}

async fn serve() -> Result<(), Error> {
    let client = connect().await?;
    orders::declare(&client).await?;
    orders::serve(&client).await?;
    eprintln!("serving {}; stop with Ctrl-C", orders::ORDERS);
    _ = tokio::signal::ctrl_c().await;
    client.unserve(orders::ORDERS).await
}

async fn make(count: usize) -> Result<(), Error> {
    let client = connect().await?;
    orders::declare(&client).await?;
    orders::make(&client, count).await
}

async fn watch() -> Result<(), Error> {
    orders::follow(&connect().await?).await
}
