//! Stores of ours, in this process.

use std::sync::Arc;

use futures::StreamExt;
use resource_registry::store::{Commit, Event, Expect, Operation, ReadAt, Store};

use super::{Subject, number_of, value};

pub(super) fn subject(name: &str, store: Arc<dyn Store>) -> Subject {
    let (puts, gets, watches) = (store.clone(), store.clone(), store);
    Subject {
        name: name.to_owned(),
        put: Box::new(move |number| {
            let operations = vec![Operation::put(key(number), Expect::Absent, value())];
            let committed = puts.commit(Commit { operations, ..Commit::default() });
            Box::pin(async move {
                committed.await.expect("it is committed");
            })
        }),
        get: Box::new(move |number| {
            let store = gets.clone();
            Box::pin(async move {
                let read = store.read(vec![key(number).into()], ReadAt::Latest).await.expect("it is read");
                assert!(read.records[0].is_some(), "it was put");
            })
        }),
        watch: Box::new(move || {
            let store = watches.clone();
            Box::pin(async move {
                let now = store.read(Vec::new(), ReadAt::Latest).await.expect("it answers").revision;
                let watch = store.watch("bench:".into(), now);
                let told = futures::stream::unfold(watch, |mut watch| async move {
                    loop {
                        if let Event::Batch(batch) = watch.next().await.expect("it is watched") {
                            let keys = batch.changes.iter().filter_map(|change| number_of(&change.key));
                            return Some((futures::stream::iter(keys.collect::<Vec<_>>()), watch));
                        }
                    }
                });
                told.flatten().boxed()
            })
        }),
    }
}

fn key(number: u64) -> String {
    format!("bench:key-{number:012}")
}
