//! Has the guest of a VM that booted told who it is, for as long as it has not heard it: also by the next process, when one is killed
//! before the guest asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Keeper;
use crate::cloud::local::link::identity::{self, Told};

/// Between two attempts: qemu is about to make its socket.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a conversation goes on before somebody looks whether it is still needed.
const CONVERSATION: Duration = Duration::from_secs(5);

/// How long the socket may be away before `status` warns of it.
const SOCKET: Duration = Duration::from_secs(30);

/// Tells the guest of a VM who it is, until it has taken that, has answered anyway, or has ended.
pub(super) async fn tell(keeper: Arc<Keeper>, id: String, told: Told) {
    let folder = keeper.home.instance(&id);
    let task = format!("identity of {id}");
    let begun = Instant::now();
    loop {
        let failure = match timeout(CONVERSATION, identity::tell(&folder, &told, false)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => Some(error),
            // The guest boots still.
            Err(_) => None,
        };
        if is_over(&keeper, &id) {
            break;
        }
        if let Some(error) = failure.filter(|_| begun.elapsed() > SOCKET) {
            keeper.tasks.tell(&keeper.log, &task, Err(error));
        }
        sleep(PAUSE).await;
    }
    keeper.tasks.forget(&task);
}

/// Whether the VM has ended, or its guest has answered: then it has heard who it is.
pub(super) fn is_over(keeper: &Keeper, id: &str) -> bool {
    let mut state = keeper.state();
    !state.is_alive(id) || state.record(id).is_none_or(|record| record.answered)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use i2kit_spec::identity::{IDENTITY_TAKEN, IDENTITY_WANTED, take_identity};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cloud::engine::environment::InstanceRecord;
    use crate::cloud::local::machine::qemu;
    use crate::cloud::local::{socket, store};

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_mins(1);

    /// A keeper with the VM `web-1-a`, which has not answered yet.
    fn keeper(root: &std::path::Path, is_alive: &Arc<AtomicBool>) -> Arc<Keeper> {
        let keeper = Keeper::with_machine(root, is_alive);
        *keeper.state().environments = store::sample();
        let unanswered = |record: &mut InstanceRecord| record.answered = false;
        let mut state = keeper.state();
        let groups = state.environments.values_mut().flat_map(|found| found.groups.values_mut());
        groups.flat_map(|group| group.instances.values_mut()).for_each(unanswered);
        drop(state);
        keeper
    }

    #[tokio::test]
    async fn a_guest_hears_who_it_is_although_the_first_conversation_was_cut_off() {
        let root = tempfile::tempdir().unwrap();
        let keeper = keeper(root.path(), &Arc::new(AtomicBool::new(true)));
        let told = Told { parameters: "i2kit.instance=web-1-a".into(), hardware: None };
        let telling = tokio::spawn(tell(Arc::clone(&keeper), "web-1-a".to_owned(), told));
        let listener = socket::listen(&keeper.home.instance("web-1-a"), qemu::IDENTITY).unwrap();
        let hears = async {
            for is_last in [false, true] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(IDENTITY_WANTED).await.unwrap();
                let mut bytes = vec![0; 20];
                stream.read_exact(&mut bytes).await.unwrap();
                if !is_last {
                    continue;
                }
                let identity = loop {
                    if let Some(identity) = take_identity(&mut bytes).unwrap() {
                        break identity;
                    }
                    bytes.push(stream.read_u8().await.unwrap());
                };
                assert_eq!(identity.parameters, "i2kit.instance=web-1-a");
                stream.write_all(IDENTITY_TAKEN).await.unwrap();
            }
            telling.await.unwrap();
        };
        tokio::time::timeout(PATIENCE, hears).await.expect("an end");
    }

    #[tokio::test]
    async fn a_guest_that_has_told_a_killed_process_that_it_took_it_is_left_alone_and_has_answered_in_the_end()
     {
        let root = tempfile::tempdir().unwrap();
        let keeper = keeper(root.path(), &Arc::new(AtomicBool::new(true)));
        let listener = socket::listen(&keeper.home.instance("web-1-a"), qemu::IDENTITY).unwrap();
        let told = Told { parameters: String::new(), hardware: None };
        let telling = tokio::spawn(tell(Arc::clone(&keeper), "web-1-a".to_owned(), told));
        let lives = async {
            // It asks for nothing any more.
            let (mut stream, _) = listener.accept().await.unwrap();
            let answered = |record: &mut InstanceRecord| record.answered = true;
            {
                let mut state = keeper.state();
                let groups = state.environments.values_mut().flat_map(|found| found.groups.values_mut());
                groups.flat_map(|group| group.instances.values_mut()).for_each(answered);
            }
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            telling.await.unwrap();
            heard
        };
        let heard = tokio::time::timeout(PATIENCE, lives).await.expect("an end");
        assert!(heard.is_empty(), "{heard:?}");
        assert!(keeper.tasks.failing().is_empty());
    }

    #[tokio::test]
    async fn a_vm_that_has_ended_is_told_nothing() {
        let root = tempfile::tempdir().unwrap();
        let is_alive = Arc::new(AtomicBool::new(true));
        let keeper = keeper(root.path(), &is_alive);
        let told = Told { parameters: String::new(), hardware: None };
        let telling = tokio::spawn(tell(Arc::clone(&keeper), "web-1-a".to_owned(), told));
        is_alive.store(false, Ordering::Relaxed);
        tokio::time::timeout(PATIENCE, telling).await.expect("an end").unwrap();
        assert!(keeper.tasks.failing().is_empty());
    }
}
