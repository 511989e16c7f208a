//! Points, methods and paths that were seen lately, so that reading a frame again costs no parsing and no allocation.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;
use starlane_core::{Method, Point};

/// How many are remembered of each.
const REMEMBERED: usize = 1_024;

pub(crate) struct Names {
    points: Recent<Point>,
    methods: Recent<(Method, Arc<str>)>,
    paths: Recent<Arc<str>>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { points: Recent::new(), methods: Recent::new(), paths: Recent::new() }
    }

    pub(crate) fn point(&mut self, text: &str) -> Option<Point> {
        self.points.get(text, |point| point.as_str(), |text| text.parse().ok())
    }

    pub(crate) fn method(&mut self, text: &str) -> Option<Method> {
        let known =
            self.methods.get(text, |(_, text)| text, |text| Some((text.parse().ok()?, Arc::from(text))));
        known.map(|(method, _)| method)
    }

    pub(crate) fn path(&mut self, text: &str) -> Arc<str> {
        // A very long path is not likely to come again.
        let known =
            (text.len() <= 256).then(|| self.paths.get(text, |path| path, |text| Some(Arc::from(text))));
        known.flatten().unwrap_or_else(|| Arc::from(text))
    }
}

/// A table where a newcomer takes the place of whoever had it.
struct Recent<T> {
    places: Box<[Option<T>]>,
    hasher: RandomState,
}

impl<T: Clone> Recent<T> {
    fn new() -> Self {
        Self { places: (0..REMEMBERED).map(|_| None).collect(), hasher: RandomState::default() }
    }

    fn get(&mut self, text: &str, name: impl Fn(&T) -> &str, make: impl Fn(&str) -> Option<T>) -> Option<T> {
        let place = &mut self.places[self.hasher.hash_one(text) as usize % REMEMBERED];
        if let Some(known) = place.as_ref().filter(|known| name(known) == text) {
            return Some(known.clone());
        }
        *place = Some(make(text)?);
        place.clone()
    }
}
