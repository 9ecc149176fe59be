use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::{
    Arrival, Chunks, Event, Machine, Role, Violation,
    credit::MAX_CREDIT,
    frame::{self, HEADER, Header, Kind},
    link::{End, LinkState},
};
use crate::tunnel::{LinkError, Note, Open, RefuseCode, ResetCode};

/// A reader that is this far behind is not worth sharing blocks with: what it leaves would hold them, with other readers' data that was
/// taken long ago.
const BEHIND: usize = 16 * 1024;
/// How many notes may wait for the program.
const MAX_NOTES: usize = 64;
/// How many bytes of control frames may wait for the transport.
pub(super) const MAX_CONTROL: usize = 1024 * 1024;

impl Machine {
    /// Takes all whole frames from the front of `input`, in order. Large payloads are shared with it, not copied.
    ///
    /// # Errors
    /// Where the other side broke the protocol. The session is over then.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), Violation> {
        if !input.is_empty() {
            self.liveness.heard(now);
        }
        while let Some(bytes) = input.first_chunk::<HEADER>() {
            let header = Header::decode(*bytes)?;
            if input.len() < HEADER + header.length {
                break;
            }
            input.advance(HEADER);
            if header.kind == Some(Kind::Data) {
                self.data(header, input)?;
            } else {
                self.frame(header, &input[..header.length], now)?;
                input.advance(header.length);
            }
        }
        let waiting = self.outbox.control.len();
        if waiting > MAX_CONTROL { Err(Violation::NotReading(waiting)) } else { Ok(()) }
    }

    fn frame(&mut self, header: Header, payload: &[u8], now: Instant) -> Result<(), Violation> {
        let Some(kind) = header.kind else { return Ok(()) };
        let allowed = match kind {
            Kind::Open => self.role == Role::Agent,
            Kind::Opened | Kind::Refused => self.role == Role::Edge,
            _ => true,
        };
        if !allowed {
            return Err(Violation::WrongSide(kind.name()));
        }
        match kind {
            Kind::Open => self.opened_by_peer(header.link, payload, now),
            Kind::Opened => self.accepted(header.link),
            Kind::Refused => self.refused(header.link, payload),
            // DATA is taken where its block is.
            Kind::Data => Ok(()),
            Kind::Credit => self.credited(header.link, payload),
            Kind::End => self.ended(header.link),
            Kind::Reset => self.reset_by_peer(header.link, payload),
            Kind::Ping => {
                self.outbox.pong = eight(payload);
                Ok(())
            }
            Kind::Pong => {
                if let Some(payload) = eight(payload) {
                    self.liveness.pong(payload, now);
                }
                Ok(())
            }
            Kind::Note => self.noted(payload),
        }
    }

    /// The link of a frame; `None` if it is closed, so that the frame is to be ignored.
    fn known(&mut self, kind: Kind, id: u32) -> Result<Option<&mut LinkState>, Violation> {
        if id > self.highest {
            return Err(Violation::NeverOpened { frame: kind.name(), link: id });
        }
        Ok(self.links.get_mut(&id).filter(|link| !link.closed))
    }

    /// As [`Machine::known`], for a frame that the sender's direction has to be open for.
    fn streaming(&mut self, kind: Kind, id: u32) -> Result<Option<&mut LinkState>, Violation> {
        let edge = self.role == Role::Edge;
        let Some(link) = self.known(kind, id)? else { return Ok(None) };
        let state = if link.receiving.ended {
            "after its END"
        } else if edge && !link.accepted {
            "before OPENED"
        } else {
            return Ok(Some(link));
        };
        Err(Violation::State { frame: kind.name(), link: id, state })
    }

    fn data(&mut self, header: Header, input: &mut BytesMut) -> Result<(), Violation> {
        let Header { length, link: id, .. } = header;
        let Some(link) = self.streaming(Kind::Data, id)? else {
            input.advance(length);
            return Ok(());
        };
        let receiving = &mut link.receiving;
        if !receiving.window.receive(length) {
            return Err(Violation::BeyondCredit(id));
        }
        if link.released {
            input.advance(length);
            return Ok(());
        }
        let (first, before) = (receiving.queue.is_empty(), receiving.queue.held());
        if length >= Chunks::SHARED && receiving.queue.len() < BEHIND {
            receiving.queue.push(input.split_to(length).freeze());
        } else {
            receiving.queue.copy(&input[..length]);
            input.advance(length);
        }
        let held = receiving.queue.held();
        self.budget.recount(before, held);
        self.counts.received += length as u64;
        if first {
            self.events.push_back(Event::Readable(id));
        }
        if self.budget.unread > self.config.max_unread {
            self.relieve();
        }
        Ok(())
    }

    /// Too much is unread: the link that holds most of it has to go, or the process would.
    fn relieve(&mut self) {
        let held = |link: &LinkState| link.receiving.queue.held();
        if let Some((&id, _)) = self.links.iter().max_by_key(|(_, link)| held(link)) {
            self.reset(id, ResetCode::Overloaded);
            self.events.push_back(Event::Failed(id));
        }
    }

    fn opened_by_peer(&mut self, id: u32, payload: &[u8], now: Instant) -> Result<(), Violation> {
        if id <= self.highest {
            return Err(Violation::NotNew(id));
        }
        let open = Open::decode(payload).map_err(|why| Violation::Payload { frame: "OPEN", why })?;
        self.highest = id;
        if self.links.len() >= self.config.max_links {
            let text = format!("there are {} links, as many as this agent takes", self.links.len());
            self.put_refused(id, RefuseCode::Overloaded, &text);
            return Ok(());
        }
        self.links.insert(id, LinkState::new(super::credit::INITIAL, now));
        self.arrivals.push_back(Arrival::Open { id, open });
        Ok(())
    }

    fn accepted(&mut self, id: u32) -> Result<(), Violation> {
        let Some(link) = self.known(Kind::Opened, id)? else { return Ok(()) };
        if link.accepted {
            return Err(Violation::State { frame: "OPENED", link: id, state: "for the second time" });
        }
        link.accepted = true;
        self.events.push_back(Event::Answered(id));
        Ok(())
    }

    fn refused(&mut self, id: u32, payload: &[u8]) -> Result<(), Violation> {
        let Some(link) = self.known(Kind::Refused, id)? else { return Ok(()) };
        if link.accepted {
            return Err(Violation::State { frame: "REFUSED", link: id, state: "after OPENED" });
        }
        let (code, text) = payload.split_at_checked(2).unwrap_or_default();
        // Shown to people: nothing that could disturb a terminal or a log.
        let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
        let code = RefuseCode::from_number(number(code));
        self.fail(id, LinkError::Refused { code, text: text.into() });
        Ok(())
    }

    fn credited(&mut self, id: u32, payload: &[u8]) -> Result<(), Violation> {
        let limit = self.config.send_queue;
        let more = payload.try_into().map_or(0, u32::from_be_bytes);
        if more == 0 {
            return Err(Violation::Credit(id));
        }
        // After the END it crossed that, and nobody needs it.
        let Some(link) = self.known(Kind::Credit, id)?.filter(|link| link.sending.end != End::Sent) else {
            return Ok(());
        };
        let credit = link.sending.credit.checked_add(more).filter(|&credit| credit <= MAX_CREDIT);
        link.sending.credit = credit.ok_or(Violation::Credit(id))?;
        if link.sending.unblock(limit) {
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    fn ended(&mut self, id: u32) -> Result<(), Violation> {
        if self.streaming(Kind::End, id)?.is_none() {
            return Ok(());
        }
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.receiving.ended = true;
        link.receiving.window.release(&mut self.budget);
        link.settle();
        self.events.push_back(Event::Readable(id));
        if link.released && link.closed {
            self.remove(id);
        }
        Ok(())
    }

    fn reset_by_peer(&mut self, id: u32, payload: &[u8]) -> Result<(), Violation> {
        if self.known(Kind::Reset, id)?.is_some() {
            self.fail(id, LinkError::Reset(ResetCode::from_number(number(payload))));
        }
        Ok(())
    }

    /// The other side has ended the link.
    fn fail(&mut self, id: u32, failure: LinkError) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.fail(failure);
        link.receiving.window.release(&mut self.budget);
        self.events.push_back(Event::Failed(id));
        if link.released {
            self.remove(id);
        }
    }

    fn noted(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let note = Note::decode(payload).map_err(|why| Violation::Payload { frame: "NOTE", why })?;
        let Some(note) = note else { return Ok(()) };
        if self.notes >= MAX_NOTES {
            return Err(Violation::TooManyNotes);
        }
        self.notes += 1;
        self.arrivals.push_back(Arrival::Note(note));
        Ok(())
    }

    pub(super) fn put_refused(&mut self, id: u32, code: RefuseCode, text: &str) {
        let text = &text[..text.floor_char_boundary(frame::MAX_TEXT)];
        let payload = [&code.number().to_be_bytes()[..], text.as_bytes()].concat();
        frame::put(&mut self.outbox.control, Kind::Refused, id, &payload);
    }
}

fn eight(payload: &[u8]) -> Option<[u8; 8]> {
    payload.try_into().ok()
}

fn number(payload: &[u8]) -> u16 {
    payload.try_into().map_or(0, u16::from_be_bytes)
}
