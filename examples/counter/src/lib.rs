//! A mechtron with state, a timer and several handlers.

use mechtron_sdk::prelude::*;

/// How long a counter remembers when nobody adds.
const IDLE: Duration = Duration::from_secs(60);

/// Adds a number to the total.
#[derive(Message)]
pub struct Add {
    /// How much; above zero.
    pub by: u64,
}

/// The total and how often something was added.
#[derive(Debug, PartialEq, Message)]
pub struct Total {
    /// The sum of everything that was added.
    pub total: u64,
    /// How many times.
    pub additions: u32,
}

/// Asks for the total.
#[derive(Message)]
pub struct GetTotal;

/// Sets the total back to zero.
#[derive(Message)]
pub struct Reset;

/// What the mechtron's config may say.
#[derive(Message)]
struct Limits {
    /// The total can never be above it.
    max: Option<u64>,
}

/// Adds numbers, and forgets them after a minute of silence.
#[mechtron]
#[derive(Debug)]
pub struct Counter {
    total: u64,
    additions: u32,
    last: Instant,
    /// Whether a timer is set. It lives with the activation, so this is not saved.
    #[serde(skip)]
    timed: bool,
}

#[handlers]
impl Counter {
    /// Timers live with the activation, so a counter that slept looks at the clock when it wakes.
    #[init]
    async fn wake(&mut self, cx: &mut Cx) -> Result<()> {
        self.idle(cx, ()).await
    }

    /// Adds to the total and returns it.
    #[call]
    async fn add(&mut self, cx: &mut Cx, m: Add) -> Result<Total> {
        ensure!(m.by > 0, INVALID_MESSAGE, "`by` must be above zero");
        let config: Limits = cx.config()?;
        let max = config.max.unwrap_or(u64::MAX);
        let Some(total) = self.total.checked_add(m.by).filter(|total| *total <= max) else {
            bail!("TOO-MUCH", "{} and {} would be above {max}", self.total, m.by);
        };
        self.total = total;
        self.additions += 1;
        self.last = cx.now();
        if !self.timed {
            cx.after(IDLE, Self::idle, ())?;
            self.timed = true;
        }
        info!(cx, "{} added {}", cx.caller(), m.by);
        Ok(self.now())
    }

    /// The total.
    #[call]
    async fn total(&self, _cx: &mut Cx, _m: GetTotal) -> Result<Total> {
        Ok(self.now())
    }

    /// Sets the total back to zero.
    #[cast]
    async fn reset(&mut self, _cx: &mut Cx, _m: Reset) -> Result<()> {
        (self.total, self.additions) = (0, 0);
        Ok(())
    }

    /// The total as text.
    #[http(GET, "/total")]
    async fn page(&self, _cx: &mut Cx) -> Result<String> {
        Ok(format!("{}\n", self.total))
    }

    /// Adds what the path says.
    #[http(POST, "/add/{by}")]
    async fn add_page(&mut self, cx: &mut Cx, request: Request) -> Result<Json<Total>> {
        let by = request.parse_param("by")?;
        self.add(cx, Add { by }).await.map(Json)
    }

    /// Forgets after a minute of silence; comes again when somebody added meanwhile.
    #[timer]
    async fn idle(&mut self, cx: &mut Cx, (): ()) -> Result<()> {
        let silence = cx.now() - self.last;
        self.timed = silence < IDLE;
        if self.timed {
            cx.after(IDLE - silence, Self::idle, ())?;
        } else {
            (self.total, self.additions) = (0, 0);
        }
        Ok(())
    }

    fn now(&self) -> Total {
        Total { total: self.total, additions: self.additions }
    }
}

mechtrons![Counter];

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: &str = "localhost:counter";

    #[test]
    fn adds_and_refuses() -> Result<()> {
        let kit = TestKit::new();
        let counter = kit.spawn(POINT, Counter::default());
        counter.add(Add { by: 2 })?;
        assert_eq!(counter.add(Add { by: 3 })?, Total { total: 5, additions: 2 });
        assert_eq!(counter.add(Add { by: 0 }).expect_err("zero").code(), INVALID_MESSAGE);
        assert_eq!(counter.total(GetTotal)?.total, 5);
        assert_eq!(kit.http(POINT, GET, "/total")?.body_text(), "5\n");
        let page = kit.http(POINT, POST, "/add/7")?;
        assert_eq!(page.body_json::<Total>()?.total, 12);
        assert_eq!(kit.http(POINT, POST, "/add/many")?.status, 400);
        counter.reset(Reset)?;
        assert_eq!(counter.total(GetTotal)?.total, 0);
        Ok(())
    }

    #[test]
    fn forgets_after_a_minute_of_silence() -> Result<()> {
        let kit = TestKit::new();
        let counter = kit.spawn(POINT, Counter::default());
        counter.add(Add { by: 2 })?;
        kit.advance(59.secs());
        assert_eq!(counter.add(Add { by: 1 })?.total, 3);
        kit.advance(59.secs());
        assert_eq!(counter.total(GetTotal)?.total, 3, "the first timer was too early");
        kit.advance(1.secs());
        assert_eq!(counter.total(GetTotal)?.total, 0);
        Ok(())
    }

    #[test]
    fn remembers_over_a_restart_and_wakes_up() -> Result<()> {
        let kit = TestKit::new();
        let counter = kit.spawn(POINT, Counter::default());
        counter.add(Add { by: 2 })?;
        kit.restart(POINT);
        assert_eq!(counter.total(GetTotal)?.total, 2);
        kit.advance(60.secs());
        assert_eq!(counter.total(GetTotal)?.total, 0, "the timer was set again");
        Ok(())
    }

    #[test]
    fn needs_one_timer_however_often_it_adds() -> Result<()> {
        let kit = TestKit::new();
        let counter = kit.spawn(POINT, Counter::default());
        for _ in 0..5_000 {
            counter.add(Add { by: 1 })?;
        }
        kit.advance(60.secs());
        assert_eq!(counter.total(GetTotal)?.total, 0);
        Ok(())
    }

    #[test]
    fn keeps_to_the_config() -> Result<()> {
        let kit = TestKit::new();
        let counter = kit.spawn_with(POINT, Counter::default(), serde_json::json!({ "max": 10 }));
        counter.add(Add { by: 10 })?;
        assert_eq!(counter.add(Add { by: 1 }).expect_err("above").code(), "TOO-MUCH");
        assert_eq!(counter.state().total, 10, "a refused message changes nothing");
        Ok(())
    }

    use mechtron_sdk::serde_json;
}
