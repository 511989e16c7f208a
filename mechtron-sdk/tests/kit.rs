//! Mechtrons in the test kit: the rules of the guest, seen by who writes one.

use mechtron_sdk::prelude::*;
use mechtron_sdk::{ErrorKind, Mechtron, serde_json};

#[derive(Message)]
struct Put {
    value: i64,
}

#[derive(Message)]
struct Ask {
    of: String,
}

#[derive(Message)]
struct AskBoth {
    one: String,
    two: String,
}

#[derive(Message)]
struct Tell {
    to: String,
    value: i64,
}

#[derive(Message)]
struct Get;

#[derive(Message)]
struct Later {
    ms: u32,
    value: i64,
}

/// Keeps a number, and asks others for theirs.
#[mechtron]
#[derive(Debug, PartialEq)]
struct Keeper {
    value: i64,
    history: Vec<i64>,
}

#[handlers]
impl Keeper {
    #[call]
    async fn put(&mut self, _cx: &mut Cx, m: Put) -> Result<i64> {
        self.history.push(m.value);
        self.value = m.value;
        ensure!(m.value != 13, "UNLUCKY", "not {}", m.value);
        if m.value == 14 {
            "fourteen".parse::<i64>()?;
        }
        Ok(self.value)
    }

    /// Handlers that do not wait need not be async.
    #[call]
    fn get(&self, _cx: &Cx, _m: Get) -> Result<i64> {
        Ok(self.value)
    }

    #[call]
    async fn ask(&mut self, cx: &mut Cx, m: Ask) -> Result<i64> {
        self.history.push(-1);
        let other = KeeperRef::at(m.of)?;
        self.value = other.get(cx, Get).await?;
        Ok(self.value)
    }

    /// Both calls are under way at once.
    #[call]
    async fn ask_both(&self, cx: &mut Cx, m: AskBoth) -> Result<i64> {
        let one = KeeperRef::at(m.one)?.get(cx, Get);
        let two = KeeperRef::at(m.two)?.get(cx, Get);
        Ok(one.await? + two.await?)
    }

    #[cast]
    async fn tell(&self, cx: &mut Cx, m: Tell) -> Result<()> {
        cx.cast(&m.to, &Put { value: m.value })
    }

    #[call]
    async fn later(&self, cx: &mut Cx, m: Later) -> Result<()> {
        cx.after(m.ms.millis(), Self::now, m.value)?;
        Ok(())
    }

    #[timer]
    async fn now(&mut self, cx: &mut Cx, value: i64) -> Result<()> {
        ensure!(value >= 0, "NEGATIVE", "{value} at {}", cx.now());
        self.value = value;
        Ok(())
    }
}

fn two() -> (TestKit, KeeperHandle, KeeperHandle) {
    let kit = TestKit::new();
    let a = kit.spawn("t:a", Keeper::default());
    let b = kit.spawn("t:b", Keeper { value: 7, ..Keeper::default() });
    (kit, a, b)
}

#[test]
fn what_fails_changes_nothing() -> Result<()> {
    let (kit, a, _) = two();
    a.put(Put { value: 1 })?;
    let refused = a.put(Put { value: 13 }).expect_err("unlucky");
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused { status: 422 }, "UNLUCKY"));
    let failed = a.put(Put { value: 14 }).expect_err("no number");
    assert_eq!((failed.kind(), failed.code()), (ErrorKind::Failed, "E-HANDLER"));
    assert_eq!(a.get(Get)?, 1, "also in memory");
    kit.restart("t:a");
    assert_eq!(a.state(), Keeper { value: 1, history: vec![1] });
    Ok(())
}

#[test]
fn calls_wait_for_their_answers() -> Result<()> {
    let (kit, a, b) = two();
    assert_eq!(a.ask(Ask { of: "t:b".into() })?, 7);
    b.put(Put { value: 8 })?;
    assert_eq!(a.ask_both(AskBoth { one: "t:b".into(), two: "t:b".into() })?, 16);
    a.tell(Tell { to: "t:b".into(), value: 9 })?;
    assert_eq!(b.get(Get)?, 9);
    assert_eq!(kit.sent_to("t:b").iter().filter(|sent| sent.from == "t:a").count(), 4);
    assert_eq!(kit.sent_to("t:b").last().map(|sent| sent.method.as_str()), Some("Ext<Get>"));
    Ok(())
}

#[test]
fn a_lost_call_leaves_the_fields_as_they_were() {
    let (kit, a, _) = two();
    for failure in
        [Failure::Unreachable, Failure::Busy, Failure::Timeout, Failure::AnswerLost, Failure::Fails]
    {
        kit.fail_next("t:b", failure);
        let error = a.ask(Ask { of: "t:b".into() }).expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::Failed, "{failure:?}");
        assert_eq!(a.state(), Keeper::default());
    }
    kit.fail_next("t:a", Failure::Timeout);
    assert_eq!(a.get(Get).expect_err("lost").kind(), ErrorKind::Unknown);
    assert_eq!(
        kit.request("t:nobody", "Ext<Get>", "/", "", b"").expect_err("nobody").kind(),
        ErrorKind::Rejected
    );
}

#[test]
fn a_cycle_is_refused_at_once() {
    let (kit, a, _) = two();
    let before = kit.now();
    let error = a.ask(Ask { of: "t:a".into() }).expect_err("itself");
    assert_eq!(error.code(), "E-CYCLE");
    assert_eq!(kit.now(), before);
    assert_eq!(a.state(), Keeper::default());
}

#[test]
fn timers_come_when_they_are_due_and_die_with_the_activation() -> Result<()> {
    let (kit, a, _) = two();
    a.later(Later { ms: 500, value: 5 })?;
    a.later(Later { ms: 100, value: 1 })?;
    a.later(Later { ms: 200, value: -2 })?;
    kit.advance(99.millis());
    assert_eq!(a.state().value, 0);
    kit.advance(1.millis());
    assert_eq!(a.state().value, 1);
    kit.advance(150.millis());
    assert_eq!(a.state().value, 1, "a timer that fails changes nothing");
    assert!(kit.log().iter().any(|log| log.level == 1 && log.line.contains("NEGATIVE")));
    kit.restart("t:a");
    kit.advance(1.hours());
    assert_eq!(a.state().value, 1, "the last timer is gone");
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let kit = TestKit::with_seed(seed);
        let a = kit.spawn("t:a", Keeper::default());
        for name in ["t:b", "t:c"] {
            kit.spawn(name, Keeper::default());
        }
        for value in 0..20 {
            let to = if value % 2 == 0 { "t:b" } else { "t:c" };
            a.tell(Tell { to: to.into(), value }).unwrap();
        }
        (kit.sent_to("t:b"), kit.sent_to("t:c"))
    };
    assert_eq!(run(5), run(5));
}

mod second {
    use mechtron_sdk::prelude::*;

    /// The next version: a field more, a field less.
    #[mechtron(default)]
    #[derive(Debug)]
    pub(super) struct Keeper {
        pub(super) value: i64,
        pub(super) unit: String,
    }

    impl Default for Keeper {
        fn default() -> Self {
            Self { value: 0, unit: "m".into() }
        }
    }

    #[handlers]
    impl Keeper {}
}

mod third {
    use mechtron_sdk::prelude::*;

    #[mechtron]
    #[derive(Debug)]
    pub(super) struct Keeper {
        pub(super) value: String,
    }

    #[handlers]
    impl Keeper {}
}

#[test]
fn state_grows_with_the_fields_and_says_when_it_cannot() -> Result<()> {
    let (kit, a, _) = two();
    a.put(Put { value: 4 })?;
    let second = kit.upgrade::<second::Keeper>("t:a");
    assert_eq!((second.state().value, second.state().unit), (4, "m".to_owned()));
    kit.upgrade::<third::Keeper>("t:a");
    let reason = kit.refused("t:a").expect("a refusal");
    assert!(
        reason.contains("does not fit the fields of `Keeper`") && reason.contains("expected a string"),
        "{reason}"
    );
    let error = kit.request("t:a", "Ext<Get>", "/", "", b"").expect_err("not started");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Rejected, "E-NOT-READY"));
    Ok(())
}

/// What a shape can be.
#[derive(Message)]
#[serde(rename_all = "kebab-case")]
enum Shape {
    /// Nothing.
    EmptyOne,
    Circle(f64),
    Box {
        wide: u8,
        #[serde(rename = "h")]
        high: Option<u8>,
    },
}

#[derive(Message)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Drawing {
    all_shapes: Vec<Shape>,
    #[serde(default)]
    by_name: std::collections::BTreeMap<String, (i32, bool)>,
    #[serde(skip)]
    cache: Option<u64>,
    at: Instant,
}

#[test]
fn schemas_say_what_serde_does() {
    let shape: serde_json::Value = serde_json::from_str(Shape::SCHEMA).unwrap();
    let byte = serde_json::json!({"type": "integer", "minimum": 0, "maximum": 255});
    assert_eq!(
        shape,
        serde_json::json!({"description": "What a shape can be.", "oneOf": [
            {"const": "empty-one", "description": "Nothing."},
            {"type": "object", "properties": {"circle": {"allOf": [{"type": "number"}]}},
             "required": ["circle"], "additionalProperties": false},
            {"type": "object", "required": ["box"], "additionalProperties": false, "properties": {"box":
                {"type": "object", "required": ["wide"],
                 "properties": {"wide": byte, "h": {"anyOf": [byte, {"type": "null"}]}}}}},
        ]})
    );
    let drawing: serde_json::Value = serde_json::from_str(Drawing::SCHEMA).unwrap();
    assert_eq!(
        drawing,
        serde_json::json!({"type": "object", "required": ["allShapes", "at"], "additionalProperties": false,
        "properties": {
            "allShapes": {"type": "array", "items": {"$ref": "#/$defs/Shape"}},
            "byName": {"type": "object", "additionalProperties": {"type": "array", "items": false, "minItems": 2,
                "prefixItems": [{"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}, {"type": "boolean"}]}},
            "at": {},
        }})
    );
    let text = r#"{"allShapes":["empty-one",{"circle":1.5},{"box":{"wide":2,"h":null}}],"byName":{},"at":5}"#;
    let read: Drawing = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    assert_eq!(read.cache, None);
}

#[test]
fn the_contract_names_every_handler() {
    let contract: serde_json::Value = serde_json::from_str(Keeper::CONTRACT).unwrap();
    assert_eq!(contract["mechtron"], "Keeper");
    assert_eq!(contract["doc"], "Keeps a number, and asks others for theirs.");
    let handlers = contract["handlers"].as_array().unwrap();
    assert_eq!(handlers.len(), 7);
    assert_eq!(
        handlers[1],
        serde_json::json!({"role": "call", "name": "get", "method": "Ext<Get>", "input": {"$ref": "#/$defs/Get"},
            "output": {"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX},
            "doc": "Handlers that do not wait need not be async."})
    );
    assert_eq!(handlers[6]["role"], "timer");
}

/// Answers what it hears, and lets others push.
#[mechtron]
struct Echo {
    open: Vec<Socket>,
    closed: Vec<(Socket, u16)>,
}

#[derive(Message)]
struct Push {
    to: Socket,
    text: String,
}

#[handlers]
impl Echo {
    #[http(GET, "/live")]
    async fn live(&mut self, cx: &mut Cx, request: Request) -> Result<Response> {
        let Some(socket) = Socket::of(&request) else { return Ok(Response::empty(426)) };
        ensure!(request.header("origin") != Some("https://evil.example"), "ORIGIN", "not from there");
        socket.send(cx, "welcome")?;
        self.open.push(socket.clone());
        Ok(socket.accept())
    }

    /// Says it back.
    #[socket(message)]
    async fn said(&self, _cx: &mut Cx, message: SocketMessage) -> Result<Option<Response>> {
        Ok(match message.frame {
            Frame::Text(text) if text == "hush" => None,
            Frame::Text(text) if text == "break" => return Err(Error::fail("BROKEN", "as it was told to")),
            Frame::Text(text) => Some(Response::text(text)),
            Frame::Bytes(bytes) => Some(Response::new(200, "application/octet-stream", bytes)),
        })
    }

    /// Notes who left.
    #[socket(closed)]
    async fn left(&mut self, _cx: &mut Cx, closed: SocketClosed) -> Result<()> {
        self.open.retain(|open| *open != closed.socket);
        self.closed.push((closed.socket, closed.code));
        Ok(())
    }

    #[call]
    async fn push(&self, cx: &mut Cx, m: Push) -> Result<()> {
        m.to.push(cx, m.text).await
    }

    #[call]
    async fn close(&self, cx: &mut Cx, m: Ask) -> Result<()> {
        Socket::at(m.of)?.close(cx, 4000, "enough")
    }
}

#[test]
fn a_socket_is_accepted_answered_pushed_and_closed() -> Result<()> {
    let kit = TestKit::new();
    let echo = kit.spawn("shop:echo", Echo::default());
    let one = kit.connect("shop:echo", "/live")?;
    let other = kit.connect("shop:echo", "/live")?;
    for text in ["a", "hush", "b"] {
        one.say(text)?;
    }
    one.say(vec![255])?;
    let mut heard = one.heard();
    assert_eq!(heard.pop(), Some(Frame::Bytes(vec![255])));
    assert_eq!(heard, ["welcome", "a", "b"].map(Frame::from));
    echo.push(Push { to: one.socket().clone(), text: "pushed".into() })?;
    assert_eq!(
        (one.heard_text(), other.heard_text()),
        (vec!["pushed".to_owned()], vec!["welcome".to_owned()])
    );

    echo.close(Ask { of: one.socket().point().to_owned() })?;
    assert_eq!(one.closed(), Some((4000, "enough".to_owned())));
    assert_eq!(one.say("too late").unwrap_err().code(), "E-USAGE");
    let gone = echo.push(Push { to: one.socket().clone(), text: "?".into() }).unwrap_err();
    assert_eq!(gone.code(), NOT_FOUND);
    assert_eq!(other.say("break").unwrap_err().code(), "BROKEN");
    assert_eq!(other.closed(), Some((1011, "BROKEN".to_owned())));
    let state = echo.state();
    assert_eq!(state.closed, [(one.socket().clone(), 4000), (other.socket().clone(), 1011)]);
    assert!(state.open.is_empty());
    Ok(())
}

#[test]
fn a_socket_that_is_refused_is_none() -> Result<()> {
    let kit = TestKit::new();
    let echo = kit.spawn("shop:echo", Echo::default());
    let refused = kit.connect_with("shop:echo", "/live", &[("origin", "https://evil.example")]).unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Refused { status: 422 }, "ORIGIN"));
    assert_eq!(kit.connect("shop:echo", "/other").unwrap_err().code(), "E-NO-ROUTE");
    assert_eq!(kit.http("shop:echo", GET, "/live")?.status, 426);
    assert!(echo.state().open.is_empty());
    Ok(())
}

#[test]
fn the_contract_tells_of_sockets() {
    let contract: serde_json::Value = serde_json::from_str(Echo::CONTRACT).unwrap();
    let sockets: Vec<_> =
        contract["handlers"].as_array().unwrap().iter().filter(|h| h["role"] == "socket").collect();
    let methods: Vec<_> = sockets.iter().map(|handler| handler["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["Ext<SocketMessage>", "Ext<SocketClosed>"]);
    assert_eq!(sockets[0]["doc"], "Says it back.");
}

/// Sees what changes, and fails at what it is told to.
#[mechtron]
pub struct Seer {
    seen: Vec<String>,
}

#[handlers]
impl Seer {
    #[on(watch = "shop:*<Order>[total >= 100]")]
    async fn orders(&mut self, _cx: &mut Cx, change: Change) -> Result<()> {
        self.seen.push(match &change {
            Change::Entered(order) => format!("entered {} {:?}", order.point, order.number("total")),
            Change::Updated(order) => format!("updated {}", order.point),
            Change::Left(order) => format!("left {} at {}", order.point, order.revision),
            Change::Again => "again".to_owned(),
        });
        let point = change.resource().map(|order| &*order.point);
        ensure!(point != Some("shop:bad"), INVALID_MESSAGE, "a bad order");
        Ok(())
    }

    #[on(watch = "shop:files:**")]
    fn files(&mut self, _cx: &mut Cx, _change: Change) -> Result<()> {
        self.seen.push("a file".to_owned());
        Ok(())
    }
}

#[test]
fn a_mechtron_is_told_what_changes() -> Result<()> {
    let kit = TestKit::new();
    let seer = kit.spawn("shop:seer", Seer::default());
    let order = |name: &str| Resource::new(format!("shop:{name}"), "Order").with("total", "120");
    seer.orders(Change::Entered(order("a")))?;
    seer.files(Change::Entered(Resource::new("shop:files:/a", "File")))?;
    // What it fails at leaves the fields as they were; the next is told all the same.
    assert_eq!(seer.orders(Change::Updated(order("bad"))).unwrap_err().code(), INVALID_MESSAGE);
    kit.restart("shop:seer");
    seer.orders(Change::Updated(order("a")))?;
    seer.orders(Change::Left(Resource { revision: 7, ..order("a") }))?;
    seer.orders(Change::Again)?;
    let seen = ["entered shop:a Some(120.0)", "a file", "updated shop:a", "left shop:a at 7", "again"];
    assert_eq!(seer.state().seen, seen);
    assert!(kit.tell("shop:seer", "no_such_watch", &Change::Again).is_err());
    assert!(kit.sent_to("shop:seer").is_empty(), "nobody sent it a message");
    let watches = Seer::CONTRACT.matches(r#""role":"watch""#).count();
    assert_eq!(watches, 2);
    assert!(Seer::CONTRACT.contains(r#""selector":"shop:*<Order>[total >= 100]""#));
    Ok(())
}
