//! A channel without a limit from any number of threads to one. `std::sync::mpsc` compiles three kinds of queues for each
//! type of message, which is a twentieth of a small site's build.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::sync::{lock, wait_while, wait_while_for};

/// The other end of the channel no longer exists, or, for [`Receiver::recv_timeout`], the time is over.
#[derive(Debug)]
pub(crate) struct Disconnected;

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    has_sender: bool,
    has_receiver: bool,
}

/// The end that sends. The receiver ends after its last message once this is dropped.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that receives, an iterator over the messages.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// Makes a channel.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { messages: VecDeque::new(), has_sender: true, has_receiver: true };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// # Errors
    /// If the receiver has been dropped. The message is dropped too.
    pub(crate) fn send(&self, message: T) -> Result<(), Disconnected> {
        let mut state = lock(&self.0.state);
        if !state.has_receiver {
            drop(state);
            return Err(Disconnected);
        }
        state.messages.push_back(message);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        lock(&self.0.state).has_sender = false;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Waits for a message.
    ///
    /// # Errors
    /// If none is left and the sender has been dropped.
    pub(crate) fn recv(&self) -> Result<T, Disconnected> {
        let waits = |state: &mut State<T>| state.messages.is_empty() && state.has_sender;
        wait_while(&self.0.changed, lock(&self.0.state), waits).messages.pop_front().ok_or(Disconnected)
    }

    /// Waits for a message, at most for `time`.
    ///
    /// # Errors
    /// As [`recv`](Receiver::recv), and if no message has arrived in that time.
    pub(crate) fn recv_timeout(&self, time: Duration) -> Result<T, Disconnected> {
        let waits = |state: &mut State<T>| state.messages.is_empty() && state.has_sender;
        wait_while_for(&self.0.changed, lock(&self.0.state), time, waits).messages.pop_front().ok_or(Disconnected)
    }
}

impl<T> Iterator for Receiver<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.recv().ok()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let messages = {
            let mut state = lock(&self.0.state);
            state.has_receiver = false;
            take(&mut state.messages)
        };
        // After the lock is released: a message may send to this channel when it is dropped.
        drop(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_the_last_one_after_the_sender_is_gone() {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || (0..1_000).for_each(|number| sender.send(number).unwrap()));
        assert!(receiver.eq(0..1_000));
        thread.join().unwrap();
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        let (sender, receiver) = channel::<()>();
        drop(sender);
        assert!(receiver.recv().is_err());
        let (sender, receiver) = channel();
        let held = Arc::new(());
        sender.send(Arc::clone(&held)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&held), 1, "an unread message is dropped with the receiver");
        assert!(sender.send(held).is_err());
    }

    #[test]
    fn a_wait_for_a_message_ends_in_time() {
        let (sender, receiver) = channel();
        assert!(receiver.recv_timeout(Duration::ZERO).is_err());
        sender.send(1).unwrap();
        assert_eq!(receiver.recv_timeout(Duration::ZERO).unwrap(), 1);
    }
}
