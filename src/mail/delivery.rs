//! The delivery of one mail: the recipients that have it, those to be retried, and those that were refused.

use lettre::Address;

use super::fault::Fault;
use super::mailer::Mailer;
use super::message::Letter;

/// A mail being delivered. Recipients that have it do not get it again.
pub(super) struct Delivery {
    letter: Letter,
    /// The recipients of the next attempt.
    left: Vec<Recipient>,
    /// The recipients that the server refused permanently, with the first reason.
    refused: Vec<Recipient>,
    reason: Option<Fault>,
}

/// A recipient and its position in the mail, from 1.
type Recipient = (usize, Address);

impl Delivery {
    pub(super) fn new(letter: Letter) -> Delivery {
        let left = (1..).zip(letter.to.iter().cloned()).collect();
        Delivery { letter, left, refused: Vec::new(), reason: None }
    }

    /// Sends the mail to all recipients that do not have it.
    ///
    /// # Errors
    /// An error if a recipient did not get it: temporary if a later attempt may help, otherwise final.
    pub(super) fn attempt(&mut self, mailer: &Mailer) -> Result<(), Fault> {
        if !self.left.is_empty()
            && let Some(fault) = self.converse(mailer)?
        {
            return Err(self.named(fault));
        }
        match self.reason.take() {
            None => Ok(()),
            Some(fault) => Err(self.named(fault)),
        }
    }

    /// Runs one conversation with the server. Returns the first fault that a later conversation may resolve.
    fn converse(&mut self, mailer: &Mailer) -> Result<Option<Fault>, Fault> {
        let to: Vec<Address> = self.left.iter().map(|(_, address)| address.clone()).collect();
        let refused = match mailer.deliver(&self.letter, &to) {
            Ok(refused) => refused,
            Err(fault) if self.is_partial() => return Err(self.named(fault)),
            Err(fault) => return Err(fault),
        };
        let (asked, mut first) = (std::mem::take(&mut self.left), None);
        for refusal in refused {
            let Some(recipient) = asked.get(refusal.index).cloned() else { continue };
            if refusal.fault.is_final() {
                self.refused.push(recipient);
                self.reason.get_or_insert(refusal.fault);
            } else {
                self.left.push(recipient);
                first.get_or_insert(refusal.fault);
            }
        }
        Ok(first)
    }

    /// Returns true if some recipients have the mail and others do not.
    pub(super) fn is_partial(&self) -> bool {
        (1..self.letter.to.len()).contains(&(self.left.len() + self.refused.len()))
    }

    /// Returns the addresses that a later attempt may reach, and those that were refused permanently.
    pub(super) fn missing(&self) -> (Vec<String>, Vec<String>) {
        let addresses = |list: &[Recipient]| list.iter().map(|(_, address)| address.to_string()).collect();
        (addresses(&self.left), addresses(&self.refused))
    }

    /// Returns the fault with the recipients that it concerns. It names only their position and host, since it is logged.
    fn named(&self, fault: Fault) -> Fault {
        let total = self.letter.to.len();
        if total == 1 {
            return fault;
        }
        let mut missing: Vec<&Recipient> = self.left.iter().chain(&self.refused).collect();
        missing.sort_by_key(|(number, _)| *number);
        let each: Vec<String> =
            missing.iter().map(|(number, address)| format!("{number} at {}", address.domain())).collect();
        let who =
            if missing.len() == total { "all recipients".into() } else { format!("recipient {}", each.join(", ")) };
        let others = if self.is_partial() { "; the others have it" } else { "" };
        let message = format!("{fault} for {who} of {total}{others}");
        fault.with_message(message)
    }
}
