//! What holds for any bytes whatever: the bodies of the fuzz targets, which the tests of this crate replay the
//! corpus with. Each reads the bytes as its part of the language; what can be read prints in a form that reads as
//! the same, and what cannot is refused with a place inside its text.

#![expect(clippy::expect_used, reason = "what a test builds itself is right, or the test fails")]

use bytes::Bytes;
use mechtron_abi::{CallHead, ErrorHead, Frames, InitHead, MessageHead, ReplyHead, StartHead, Writer};
use starlane_core::frame::{self, Control, Frame, Head, Heads, Hop, Kind, Place, Slicer};
use starlane_core::{
    Action, Bind, Bindings, Body, Config, Headers, Method, Outcome, Payload, Point, Problem, Reply, Request,
    Script, Selector,
};

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

fn check_problem(problem: &Problem) {
    assert!(!problem.detail.is_empty());
    if let Some(place) = &problem.place {
        assert!(place.span.start <= place.span.end, "{problem:?}");
        assert!(place.source.get(place.span.start..place.span.end).is_some(), "{problem:?}");
        assert!(place.line() >= 1 && place.column() >= 1);
    }
}

fn shop() -> Point {
    "shop:app".parse().expect("a point")
}

fn bundle() -> Point {
    "shop:repo:site:1.0.0".parse().expect("a point")
}

fn bindings() -> Bindings {
    let here = Bindings { here: Some(shop()), ..Bindings::default() };
    here.with("bundle", bundle().to_string()).with("name", "cart")
}

pub(crate) fn point(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match text.parse::<Point>() {
        Ok(point) => {
            assert_eq!(point.as_str(), text);
            assert_eq!(point.depth(), point.ancestors().count());
            if let Some(parent) = point.parent() {
                assert!(parent.contains(&point) && !point.contains(&parent));
                assert_eq!(parent.to_string().parse(), Ok(parent));
            }
            let selector = Selector::exactly(&point);
            assert!(selector.matches_point(&point) && selector.scope().contains(&point));
            assert_eq!(
                selector.to_string().parse::<Selector>().expect("it printed").as_point(),
                Some(&point)
            );
        }
        Err(error) => {
            let end = error.at + error.length;
            assert!(text.get(error.at.min(text.len())..end.min(text.len())).is_some(), "{error:?}");
        }
    }
    match starlane_core::Kind::parse_with_help(text) {
        Ok(kind) => assert_eq!(kind.to_string().parse(), Ok(kind)),
        Err(problem) => check_problem(&problem),
    }
}

pub(crate) fn selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match text.parse::<Selector>() {
        Ok(selector) => {
            let printed = selector.to_string();
            let again: Selector = printed.parse().expect("what was printed can be read");
            assert_eq!(again.to_string(), printed);
            let base = selector.scope().base;
            for point in [base.clone(), shop(), bundle(), Point::root()] {
                assert_eq!(selector.matches_point(&point), again.matches_point(&point));
                assert!(!selector.matches_point(&point) || selector.scope().contains(&point));
            }
        }
        Err(problem) => check_problem(&problem),
    }
}

pub(crate) fn script(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Script::parse(text) {
        Ok(script) => {
            let printed = script.to_string();
            let again = Script::parse(&printed).expect("what was printed can be read");
            assert_eq!(again.to_string(), printed);
            for (first, again) in script.statements.iter().zip(&again.statements) {
                match (first.resolve(&bindings()), again.resolve(&bindings())) {
                    (Ok(first), Ok(again)) => assert_eq!(first, again),
                    (Err(problem), Err(_)) => check_problem(&problem),
                    (first, again) => panic!("{first:?} printed as {again:?}"),
                }
            }
        }
        Err(problem) => check_problem(&problem),
    }
}

pub(crate) fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Config::parse(text, "fuzz") {
        Ok(config) => {
            let printed = config.to_string();
            let again = Config::parse(&printed, "fuzz").expect("what was printed can be read");
            assert_eq!(again.to_string(), printed);
            match (config.resolve(&bundle(), &shop()), again.resolve(&bundle(), &shop())) {
                (Ok(first), Ok(again)) => assert_eq!(first, again),
                (Err(problem), Err(_)) => check_problem(&problem),
                (first, again) => panic!("{first:?} printed as {again:?}"),
            }
        }
        Err(problem) => check_problem(&problem),
    }
}

pub(crate) fn bind(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match Bind::parse(text, "fuzz") {
        Ok(bind) => {
            let printed = bind.to_string();
            let again = Bind::parse(&printed, "fuzz").expect("what was printed can be read");
            assert_eq!(again.to_string(), printed);
            match bind.at(&shop(), Some(&bundle())) {
                Ok(bind) => run(&bind),
                Err(problem) => check_problem(&problem),
            }
        }
        Err(problem) => check_problem(&problem),
    }
}

/// Runs some requests through a bind to their end.
fn run(bind: &Bind) {
    for (method, path) in [("Http<Get>", "/app/a%2Fb?q=1"), ("Http<Get>", "/%2e%2e/x"), ("Ext<AddItem>", "/")]
    {
        let method: Method = method.parse().expect("a method");
        let route = match bind.route(&method, path) {
            Ok(Some(route)) => route,
            Ok(None) => continue,
            Err(problem) => return check_problem(&problem),
        };
        let body = Body::Bytes(Bytes::from_static(b"{}"));
        let mut pipeline =
            route.start(Request { method, path: path.into(), headers: Headers::default(), body });
        let mut asked = 0;
        loop {
            match pipeline.next() {
                Action::Ask { path, .. } | Action::Own { path, .. } => {
                    assert!(path.starts_with('/'));
                    asked += 1;
                    pipeline.answer(Reply::new(200, "application/json", "{}"));
                }
                Action::Answer(reply) => break assert_eq!(reply.status, 200),
                Action::Refuse(problem) => break check_problem(&problem),
            }
            assert!(asked < 16);
        }
    }
}

pub(crate) fn frames(data: &[u8]) {
    let mut writer = Writer::new();
    let mut whole = 0;
    for frame in Frames::new(data) {
        let Ok(frame) = frame else { break };
        assert_eq!(frame.payload.len(), frame.header.length as usize);
        whole += 1;
        writer.frame(frame.header, frame.payload);
        if let Ok((head, body)) = frame.split() {
            assert_eq!(head.len() + body.len(), frame.payload.len());
            let _ = MessageHead::read(head);
            let _ = ReplyHead::read(head);
            let _ = CallHead::read(head);
            let _ = ErrorHead::read(head);
            let _ = InitHead::read(head);
            let _ = StartHead::read(head);
        }
    }
    let again = Frames::new(writer.bytes()).map(|frame| frame.expect("a written frame can be read"));
    assert_eq!(again.count(), whole);
}

pub(crate) fn wire(data: &[u8]) {
    // However a stream is cut, it brings the same.
    let whole = frames_of(&[data]);
    let (first, rest) = data.split_at(data.len().min(61));
    assert_eq!(frames_of(&[first, rest]), whole);
    assert_eq!(frames_of(&data.chunks(7).collect::<Vec<_>>()), whole);

    let mut slicer = Slicer::controls();
    slicer.push(Bytes::copy_from_slice(data));
    while let Ok(Some(piece)) = slicer.next() {
        let Ok(control) = Control::read(piece) else { break };
        let mut again = Vec::new();
        control.write(&mut again).expect("it was within its bound");
        let mut slicer = Slicer::controls();
        slicer.push(again.into());
        let piece = slicer.next().expect("a written packet can be read").expect("it is whole");
        match Control::read(piece).expect("a written packet can be read") {
            // It may have held more than this build knows of.
            Control::Other(kind) => assert_eq!(control, Control::Other(kind)),
            known => assert_eq!(control, known),
        }
    }
}

/// The frames that a stream brings until it breaks, each read and written again.
fn frames_of(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut slicer = Slicer::frames();
    let mut heads = Heads::default();
    let mut frames = Vec::new();
    for chunk in chunks {
        slicer.push(Bytes::copy_from_slice(chunk));
        loop {
            match slicer.next() {
                Ok(None) => break,
                Ok(Some(piece)) => match Frame::read(piece) {
                    Ok(frame) => {
                        frames.push(frame.bytes().to_vec());
                        check_frame(&frame, &mut heads);
                    }
                    Err(_) => return frames,
                },
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn check_frame(frame: &Frame<'_>, heads: &mut Heads) {
    let header = frame.header;
    let (head, body) = (frame.head(), frame.body());
    assert!(frame.detached().is_some() || frame.body_bytes() == body.len() as u64);
    let place = Place::Inline(body.len());
    let mut again = Vec::new();
    match header.kind {
        Kind::Request | Kind::Signal => {
            let Ok(message) = heads.message(&header, head, body.clone()) else { return };
            let (Payload::Request(request) | Payload::Signal(request)) = &message.payload else {
                panic!("a reply was read as a message")
            };
            frame::begin(
                &mut again,
                *frame::VERSIONS.end(),
                &header,
                Head::Message(&message.header, request),
                place,
            )
            .expect("what was read can be written");
            again.extend_from_slice(&body);
            assert_eq!(
                read_again(&again, |frame| Heads::default().message(
                    &frame.header,
                    frame.head(),
                    frame.body()
                )),
                message
            );
        }
        Kind::Reply | Kind::Refusal => {
            let Ok(outcome) = heads.outcome(&header, head, body.clone()) else { return };
            let written = match &outcome {
                Outcome::Ok(reply) => Head::Reply(reply),
                Outcome::Rejected(refusal) => Head::Refusal(frame::Ending::Rejected, refusal),
                Outcome::Failed(refusal) => Head::Refusal(frame::Ending::Failed, refusal),
                Outcome::Unknown(refusal) => Head::Refusal(frame::Ending::Unknown, refusal),
            };
            // A detail is cut when it is long; then it is another outcome.
            if frame::begin(&mut again, *frame::VERSIONS.end(), &header, written, place).is_ok()
                && head.len() < 4_096
            {
                again.extend_from_slice(&body);
                let read = read_again(&again, |frame| {
                    Heads::default().outcome(&frame.header, frame.head(), frame.body())
                });
                assert_eq!(read, outcome);
            }
        }
        Kind::Trace | Kind::Traced => {
            let Ok(hops) = Hop::read_all(&body) else { return };
            let mut again = Vec::new();
            hops.iter().for_each(|hop| hop.write(&mut again));
            assert_eq!(again, body);
        }
        Kind::Call => {
            let _ = frame::read_call(head);
        }
        Kind::Lost => {
            let _ = frame::read_refusal(head);
        }
        Kind::Answer | Kind::Cancel | Kind::Other(_) => {}
    }
}

fn read_again<T>(written: &[u8], read: impl FnOnce(&Frame<'_>) -> Result<T, frame::Error>) -> T {
    let mut slicer = Slicer::frames();
    slicer.push(Bytes::copy_from_slice(written));
    let piece = slicer.next().expect("a written frame can be read").expect("it is whole");
    let frame = Frame::read(piece).expect("a written frame can be read");
    read(&frame).expect("a written head can be read")
}
