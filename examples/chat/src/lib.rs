//! A room in which browsers talk: each is a WebSocket that came through a bind, and the mechtron keeps their addresses.

use std::collections::{BTreeMap, VecDeque};

use mechtron_sdk::prelude::*;

/// How many may be in the room. All of them are told something at the same time, and a mechtron waits for at most 1,024 answers.
const MEMBERS_MAX: usize = 500;
/// How many lines the room remembers, for those who come.
const LINES_MAX: usize = 20;
/// How long a name may be, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// How long a line may be, in bytes.
const TEXT_BYTES_MAX: usize = 2_000;
/// How long to wait until a line is on its way to somebody; then it is as if he had left.
const PATIENCE: Duration = Duration::from_secs(5);
/// The code by which somebody is sent away who reads too slowly. The page comes back, and is told the last lines.
const TOO_SLOW: u16 = 4_008;

/// What somebody said.
#[derive(Debug, Clone, PartialEq, Message)]
pub struct Line {
    /// Who.
    pub from: String,
    /// What.
    pub text: String,
}

/// A room in which people talk.
#[mechtron]
#[derive(Debug)]
pub struct Room {
    members: BTreeMap<Socket, String>,
    lines: VecDeque<Line>,
}

#[handlers]
impl Room {
    /// Somebody comes: `/live?name=ann`.
    #[http(GET, "/live")]
    async fn live(&mut self, cx: &mut Cx, request: Request) -> Result<Response> {
        let Some(socket) = Socket::of(&request) else {
            return Ok(Response::text("open a WebSocket here\n").with_status(426));
        };
        let name = request.query("name").unwrap_or_default().trim().to_owned();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::status(400, INVALID_MESSAGE, "say who you are: `/live?name=ann`"));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(Error::status(503, "FULL", "the room is full"));
        }
        // Before it is open, and so the first that the client hears.
        let lines: Vec<_> = self.lines.iter().map(Frame::json).collect::<Result<_>>()?;
        let told: Vec<_> = lines.into_iter().map(|line| socket.push(cx, line)).collect();
        for line in told {
            line.await?;
        }
        self.members.insert(socket.clone(), name.clone());
        self.tell(cx, Line { from: name, text: "is here".to_owned() }).await?;
        Ok(socket.accept())
    }

    /// Somebody says something: text, which all are told.
    #[socket(message)]
    async fn say(&mut self, cx: &mut Cx, message: SocketMessage) -> Result<()> {
        let text = message.text()?.trim();
        ensure!(!text.is_empty(), INVALID_MESSAGE, "nothing was said");
        ensure!(text.len() <= TEXT_BYTES_MAX, INVALID_MESSAGE, "that is too long");
        let Some(from) = self.members.get(&message.socket) else {
            // Taken for gone, for example while its node was out of reach. It comes back by itself.
            return message.socket.close(cx, TOO_SLOW, "come in again");
        };
        let line = Line { from: from.clone(), text: text.to_owned() };
        self.tell(cx, line).await
    }

    /// Somebody is gone.
    #[socket(closed)]
    async fn leave(&mut self, cx: &mut Cx, closed: SocketClosed) -> Result<()> {
        match self.members.remove(&closed.socket) {
            Some(from) => self.tell(cx, Line { from, text: "left".to_owned() }).await,
            None => Ok(()),
        }
    }

    /// Tells all a line, and then who turned out to be gone.
    async fn tell(&mut self, cx: &Cx, line: Line) -> Result<()> {
        let cx = cx.within(PATIENCE);
        let mut lines = VecDeque::from([line]);
        while let Some(line) = lines.pop_front() {
            let frame = Frame::json(&line)?;
            self.lines.push_back(line);
            if self.lines.len() > LINES_MAX {
                self.lines.pop_front();
            }
            // All under way before the first is waited for.
            let members = self.members.keys();
            let told: Vec<_> = members.map(|one| (one.clone(), one.push(&cx, frame.clone()))).collect();
            for (socket, pushed) in told {
                let Err(error) = pushed.await else { continue };
                if error.code() == "E-BUSY" {
                    socket.close(&cx, TOO_SLOW, "you read too slowly")?;
                }
                let gone = self.members.remove(&socket);
                lines.extend(gone.map(|from| Line { from, text: "left".to_owned() }));
            }
        }
        Ok(())
    }
}

mechtrons![Room];

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: &str = "localhost:chat";

    fn said(from: &str, text: &str) -> String {
        format!(r#"{{"from":"{from}","text":"{text}"}}"#)
    }

    #[test]
    fn all_hear_what_one_says_and_who_comes_hears_what_was_said() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn(POINT, Room::default());
        let ann = kit.connect(POINT, "/live?name=ann")?;
        ann.say("anybody here?")?;
        let bob = kit.connect(POINT, "/live?name=bob")?;
        bob.say("yes")?;
        let all = [
            said("ann", "is here"),
            said("ann", "anybody here?"),
            said("bob", "is here"),
            said("bob", "yes"),
        ];
        assert_eq!((ann.heard_text(), bob.heard_text()), (all.to_vec(), all.to_vec()));
        bob.leave();
        assert_eq!(ann.heard_text(), [said("bob", "left")]);
        Ok(())
    }

    #[test]
    fn who_does_not_say_a_name_is_refused_and_a_page_is_none() -> Result<()> {
        let kit = TestKit::new();
        let room = kit.spawn(POINT, Room::default());
        let refused = kit.connect(POINT, "/live").expect_err("nobody");
        assert_eq!(refused.code(), INVALID_MESSAGE);
        assert_eq!(kit.http(POINT, GET, "/live?name=ann")?.status, 426);
        assert!(room.state().members.is_empty());
        Ok(())
    }

    #[test]
    fn what_cannot_be_said_is_answered_and_ends_nothing() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn(POINT, Room::default());
        let ann = kit.connect(POINT, "/live?name=ann")?;
        ann.heard();
        ann.say("  ")?;
        ann.say(vec![1])?;
        let heard = ann.heard_text();
        assert!(heard.len() == 2 && heard.iter().all(|answer| answer.contains(INVALID_MESSAGE)), "{heard:?}");
        assert_eq!(ann.closed(), None);
        Ok(())
    }

    #[test]
    fn the_room_is_there_after_a_restart_and_the_dead_are_found_out() -> Result<()> {
        let kit = TestKit::new();
        let room = kit.spawn(POINT, Room::default());
        let [ann, bob] = ["ann", "bob"].map(|name| kit.connect(POINT, &format!("/live?name={name}")));
        let (ann, bob) = (ann?, bob?);
        kit.restart(POINT);
        bob.vanish();
        ann.heard();
        ann.say("still here")?;
        assert_eq!(ann.heard_text(), [said("ann", "still here"), said("bob", "left")]);
        assert_eq!(room.state().members.len(), 1);
        Ok(())
    }

    #[test]
    fn who_reads_too_slowly_is_sent_away_and_may_come_back() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn(POINT, Room::default());
        let [ann, bob] = ["ann", "bob"].map(|name| kit.connect(POINT, &format!("/live?name={name}")));
        let (ann, bob) = (ann?, bob?);
        kit.fail_next(bob.socket().point(), Failure::Busy);
        ann.say("quick")?;
        assert_eq!(bob.closed(), Some((TOO_SLOW, "you read too slowly".to_owned())));
        let bob = kit.connect(POINT, "/live?name=bob")?;
        assert!(bob.heard_text().contains(&said("ann", "quick")), "who comes is told the last lines");
        Ok(())
    }

    #[test]
    fn a_room_that_is_gone_closes_the_connection() -> Result<()> {
        let kit = TestKit::new();
        kit.spawn(POINT, Room::default());
        let ann = kit.connect(POINT, "/live?name=ann")?;
        kit.fail_next(POINT, Failure::Unreachable);
        ann.say("hello?").expect_err("nobody is there");
        assert_eq!(ann.closed(), Some((1011, "E-UNREACHABLE".to_owned())));
        Ok(())
    }
}
