//! The whole story, told with real commands on real nodes, each answer checked.

mod cast;
mod mesh;
mod story;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use starlane_core::{Code, Problem};

use crate::cli::demo::DemoArgs;
use crate::output::Stop;
use cast::Cast;
use story::{Broken, FIRST, Story};

/// The bundles that the story needs.
const BUNDLES: [&str; 4] = ["site", "hello", "counter", "shop"];

/// How often it is looked whether a node that is kept still runs.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tells the story; tells too when it does not go on since an answer is not what it should be, and ends with 1 then.
///
/// # Errors
/// `E-USAGE` when the bundles are not there.
pub async fn run(args: DemoArgs) -> Result<(), Stop> {
    let bundles = bundles(args.bundles.as_deref())?;
    let folder = Folder::new()?;
    let runtime = tokio::runtime::Handle::current();
    let cast = Arc::new(Cast::default());
    let (data, actors) = (folder.0.clone(), cast.clone());
    let mut telling = tokio::task::spawn_blocking(move || {
        let mut story = Story::new(&data, args.http, args.api, runtime, actors)?;
        tell(&mut story, &bundles)?;
        end(&mut story, args.keep);
        Ok::<_, Broken>(())
    });
    // One for all of it: a signal between two of them would be lost.
    let mut interrupted = std::pin::pin!(interrupted());
    let told = tokio::select! {
        told = &mut telling => told,
        () = &mut interrupted => {
            // Without its node the story breaks off by itself; what it still types must not outlive the folder.
            cast.end();
            _ = telling.await;
            return Err(Stop::Interrupted);
        }
    };
    let told = told.map_err(|error| Problem::new(Code::Internal, format!("the story stopped: {error}")))?;
    if let Err(broken) = told {
        cast.end();
        // Who closed the pipe does not want to know.
        _ = writeln!(anstream::stderr(), "\nThe story does not go on: {broken}");
        return Err(Stop::Exit(1));
    }
    if args.keep {
        let ended = tokio::select! {
            () = until_alone(&cast) => Ok(()),
            () = &mut interrupted => Err(Stop::Interrupted),
        };
        cast.end();
        return ended;
    }
    Ok(())
}

/// Waits until all nodes have ended by themselves.
async fn until_alone(cast: &Cast) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    while !cast.is_alone() {
        looks.tick().await;
    }
}

/// Waits for Ctrl-C, or for whoever ends processes.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    _ = tokio::signal::ctrl_c().await;
}

fn tell(story: &mut Story, bundles: &Path) -> Result<(), Broken> {
    a_node_alone(story)?;
    a_web_site(story, bundles)?;
    a_mechtron(story, bundles)?;
    several_mechtrons(story, bundles)?;
    mistakes(story)?;
    a_crash(story)?;
    mesh::three_nodes(story)
}

fn a_node_alone(story: &mut Story) -> Result<(), Broken> {
    story.chapter("A node starts alone");
    story.say("One binary, one data folder, nothing else running. Security is on from the first start:");
    story.say("the node made a token that its owner alone can read, and listens on this machine alone.");
    let took = story.serve()?;
    story.check(&format!("ready in {} ms", took.as_millis()), "", "")?;
    let nodes = story.run(&["select", "mesh:**"])?;
    story.check(
        "the node is a resource itself, like everything the mesh knows",
        "mesh:nodes:cloud<Node>",
        &nodes,
    )
}

fn a_web_site(story: &mut Story, bundles: &Path) -> Result<(), Broken> {
    story.chapter("A web site, from a bundle through a bind");
    story.run(&["create", "localhost<Space>"])?;
    story.say("From now on every change below the space streams past:");
    story.watch("localhost:**")?;
    story.run(&["create", "localhost:repo<Repo>"])?;
    story.sees(&["entered", "localhost:repo<Repo>"])?;
    publish(story, bundles, "site")?;
    story.run(&["set", "localhost{ +bind=localhost:repo:site:1.0.0:/bind/demo.bind }"])?;
    let (status, kind, body) = story.get("/")?;
    story.check("the page is served", "200", &status.to_string())?;
    story.check("with its content type", "text/html", &kind)?;
    story.check("and its content", "</html>", &body)?;
    let (status, ..) = story.get("/nothing-here")?;
    story.check("what is not there is 404", "404", &status.to_string())
}

fn a_mechtron(story: &mut Story, bundles: &Path) -> Result<(), Broken> {
    story.chapter("A mechtron: Rust, compiled to WebAssembly");
    publish(story, bundles, "hello")?;
    story.run(&[
        "create",
        "localhost:hello<Mechtron>{ +config=localhost:repo:hello:1.0.0:/config/hello.mechtron }",
    ])?;
    story.sees(&["localhost:hello<Mechtron>"])?;
    let (_, _, body) = story.get("/hello/reader")?;
    story.check("it answers HTTP, through the space's bind", "Hello, reader!", &body)?;

    story.say(
        "The next one keeps state: its fields are saved when a handler completes, before the answer leaves.",
    );
    publish(story, bundles, "counter")?;
    story.run(&[
        "create",
        "localhost:counter<Mechtron>{ +config=localhost:repo:counter:1.0.0:/config/counter.mechtron }",
    ])?;
    let total = story.run(&["request", "localhost:counter^Ext<Add>", r#"{"by": 2}"#])?;
    story.check("it answers messages", r#""total":2"#, &total)?;
    let total = story.run(&["request", "localhost:counter^Ext<Add>", r#"{"by": 40}"#])?;
    story.check("and remembers", r#""total":42"#, &total)?;
    let error = story.fails(&["request", "localhost:counter^Ext<Add>", r#"{"by": "two"}"#], 2)?;
    story.check("a message is checked against the contract in the module", "/by", &error)?;
    let described = story.run(&["describe", "localhost:counter"])?;
    story.check("which anybody can read", "Ext<Add>", &described)
}

fn several_mechtrons(story: &mut Story, bundles: &Path) -> Result<(), Broken> {
    story.chapter("Mechtrons that talk to each other");
    story.say(
        "An app whose config installs a cart and a validator. The cart's bind sends every item past the",
    );
    story.say("validator before it reaches the cart; on checkout the cart asks the validator for prices.");
    publish(story, bundles, "shop")?;
    story.run(&["create", "shop<App>{ +config=localhost:repo:shop:1.0.0:/config/shop.app }"])?;
    let below = story.run(&["select", "shop:*"])?;
    story.check("the app installed its parts", "shop:validator<Mechtron>", &below)?;
    let cart = story.run(&["request", "shop:cart^Ext<AddItem>", r#"{"article": "apple", "count": 3}"#])?;
    story.check("an item that passes the validator reaches the cart", r#""apple":3"#, &cart)?;
    let refused =
        story.fails(&["request", "shop:cart^Ext<AddItem>", r#"{"article": "apple", "count": 0}"#], 8)?;
    story.check("one that does not is refused by the validator", "count", &refused)?;
    let receipt = story.run(&["request", "shop:cart^Ext<Checkout>"])?;
    story.check("the cart asked for prices", r#""cents":90"#, &receipt)
}

fn mistakes(story: &mut Story) -> Result<(), Broken> {
    story.chapter("Mistakes are answered with a place, a reason and a next step");
    let error = story.fails(&["create", "localhost:cart<Mechatron>"], 2)?;
    story.check("a kind that is not one", "did you mean `Mechtron`", &error)?;
    let error = story.fails(&["create", "localhost:a:b<Base>"], 3)?;
    story.check("a parent that is not there", "localhost:a", &error)?;
    story.run(&["create", "localhost:plan<Base>{ +@approved=true }"])?;
    story.sees(&["localhost:plan<Base>"])?;
    let error = story.fails(&["set", "localhost:plan{ +approved=false }"], 5)?;
    story.check("a property that is locked", "approved", &error)?;
    let left = story.run(&["get", "localhost:plan{ approved }"])?;
    story.check("and nothing changed", "true", &left)
}

fn a_crash(story: &mut Story) -> Result<(), Broken> {
    story.chapter("The power goes out");
    story.kill(FIRST)?;
    let took = story.serve()?;
    let total = story.run(&["request", "localhost:counter^Ext<GetTotal>"])?;
    story.check(
        &format!("the counter knows its total, {} ms after the start", took.as_millis()),
        r#""total":42"#,
        &total,
    )?;
    let (status, ..) = story.get("/")?;
    story.check("the site is there", "200", &status.to_string())?;
    story.run(&["create", "localhost:after-the-crash<Base>"])?;
    story.sees(&["entered", "localhost:after-the-crash<Base>"])?;
    story.check("and the watch went on by itself where it was", "", "")
}

/// Makes the series of an example and publishes its bundle in it.
fn publish(story: &mut Story, bundles: &Path, name: &str) -> Result<(), Broken> {
    story.run(&["create", &format!("localhost:repo:{name}<BundleSeries>")])?;
    let folder = bundles.join(name);
    story.run(&["publish", &format!("^[ {} ]-> localhost:repo:{name}:1.0.0", folder.display())])?;
    story.sees(&[&format!("localhost:repo:{name}:1.0.0<Bundle>"), "Ready"])
}

fn end(story: &mut Story, keep: bool) {
    let (checks, web, api) = (story.checks, story.web_url(), story.api_url());
    story.chapter("The end");
    story.say(&format!("{checks} answers were checked, and all of them are right."));
    if keep {
        story.say(&format!("The nodes stay up until Ctrl-C: web {web}, api {api}"));
    } else {
        story.say(
            "Nothing is left running, and nothing on the disk. `starlane demo --keep` leaves the nodes up.",
        );
    }
    story.end(keep);
}

fn bundles(named: Option<&Path>) -> Result<PathBuf, Problem> {
    let folder = named.unwrap_or_else(|| Path::new("target/bundles"));
    let missing = BUNDLES.into_iter().find(|name| !folder.join(name).is_dir());
    match missing {
        None => Ok(folder.to_owned()),
        Some(name) => Err(Problem::new(Code::Usage, format!("the bundle `{name}` is not in {}", folder.display()))
            .help("`make demo` in the repository builds the bundles and runs the demo; `--bundles DIR` names another folder")),
    }
}

/// A folder that is gone when the story ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Problem> {
        let mut name = [0; 8];
        getrandom::fill(&mut name)
            .map_err(|error| Problem::new(Code::Internal, format!("no randomness: {error}")))?;
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(std::env::temp_dir().join(format!("starlane-demo-{name}"))))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It may not have been made.
        _ = std::fs::remove_dir_all(&self.0);
    }
}
