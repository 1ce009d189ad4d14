//! A watched environment as a stream of JSON lines: the fleet now, and again whenever it is another one after a round of
//! the control loop.

use std::sync::Arc;

use axum::body::Body;
use futures::stream;

use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::wire::Inspect;

/// The body of the answer. It ends with the process: the next one is asked for what changed since.
pub(super) fn stream(keeper: Arc<Keeper>, asked: Inspect) -> Body {
    let rounds = keeper.rounds.subscribe();
    let start = (keeper, asked, rounds, None);
    Body::from_stream(stream::unfold(start, |(keeper, asked, mut rounds, mut last)| async move {
        loop {
            if keeper.ending.is_cancelled() {
                return None;
            }
            rounds.mark_unchanged();
            let fleet = keeper.fleet(&asked.environment, &asked.scope);
            if last.as_ref() != Some(&fleet) {
                let mut line = serde_json::to_vec(&fleet).expect("a fleet has only string keys");
                line.push(b'\n');
                last = Some(fleet);
                return Some((Ok::<_, std::convert::Infallible>(line), (keeper, asked, rounds, last)));
            }
            tokio::select! {
                changed = rounds.changed() => changed.ok()?,
                () = keeper.ending.cancelled() => return None,
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures::StreamExt as _;

    use super::*;
    use crate::cloud::Scope;
    use crate::cloud::local::home::Home;
    use crate::plan::fleet::Fleet;

    #[tokio::test]
    async fn a_line_comes_for_what_is_there_and_for_what_changes_and_none_for_nothing() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Arc::new(Keeper::open(home).unwrap());
        let asked = Inspect { environment: "local".into(), scope: Scope::Environment };
        let mut lines = stream(Arc::clone(&keeper), asked).into_data_stream();
        let mut next = async || -> Option<Fleet> {
            let line = lines.next().await?.unwrap();
            Some(serde_json::from_slice(&line).unwrap())
        };
        assert!(next().await.unwrap().is_empty());
        // A round in which nothing happened, and one after a commit.
        keeper.rounds.send_replace(());
        let later = Arc::clone(&keeper);
        let change = tokio::spawn(async move {
            tokio::task::yield_now().await;
            let sample = crate::cloud::local::store::sample();
            later
                .change_all(|environments| {
                    environments.extend(sample);
                    Ok(())
                })
                .unwrap();
            later.rounds.send_replace(());
        });
        let fleet = next().await.unwrap();
        assert_eq!((fleet.groups.len(), fleet.groups[0].instances.len()), (1, 2));
        change.await.unwrap();
        keeper.ending.cancel();
        assert!(next().await.is_none(), "the next process goes on");
    }
}
