//! The access log: one line a request, written beside the requests' way.
//!
//! A line goes into a buffer of limited size. One thread writes that out, a few times a second at most, however many lines
//! there are: a request costs no system call, and where the reader of the log is slow, lines are dropped and counted
//! instead of visitors being held up.

mod entry;

use std::{
    cell::RefCell,
    io::{self, Write},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use prometheus::{IntCounter, Registry};

pub use self::entry::Entry;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(50);
/// Most bytes that wait to be written.
const MAX_BYTES: usize = 4 << 20;
/// How long the end waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a buffer may keep of its size once it is empty.
const KEPT_BYTES: usize = 256 << 10;

thread_local! {
    /// Where a line is made, so that the buffer is locked only to copy it.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object with all that is known.
    Json,
    /// The Common Log Format: visitor's address, time, request line, status, bytes sent.
    Clf,
}

/// Takes entries; cheap to clone, all clones are one log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: AccessLogFormat,
    lines: Arc<Lines>,
}

/// The thread that writes. Dropped, it writes what is left, for a second at most, and ends; what comes later is dropped.
#[derive(Debug)]
pub struct AccessLogWriter {
    lines: Arc<Lines>,
}

#[derive(Debug)]
struct Lines {
    waiting: Mutex<Waiting>,
    /// There is something to write, or the end has come.
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    count: u64,
    closed: bool,
    /// All is written.
    ended: bool,
}

// === impl AccessLog ===

impl AccessLog {
    /// Starts a log whose lines go to `out`.
    ///
    /// # Errors
    /// Where `metrics` has such a log's metric already, or no thread can be started.
    pub fn start(
        format: AccessLogFormat,
        out: impl Write + Send + 'static,
        metrics: &Registry,
    ) -> io::Result<(Self, AccessLogWriter)> {
        let dropped = IntCounter::new(
            "culvert_access_log_dropped_total",
            "Lines of the access log that were lost because they could not be written fast enough, or at all.",
        );
        let dropped = dropped.map_err(io::Error::other)?;
        metrics.register(Box::new(dropped.clone())).map_err(io::Error::other)?;
        let lines = Arc::new(Lines { waiting: Mutex::default(), changed: Condvar::new(), dropped });
        let writing = lines.clone();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writing.write_to(out);
            writing.waiting.lock().ended = true;
            writing.changed.notify_all();
        })?;
        Ok((Self { format, lines: lines.clone() }, AccessLogWriter { lines }))
    }

    /// Takes one entry.
    pub fn log(&self, entry: &Entry<'_>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            entry.write(self.format, line);
            self.lines.push(line);
        });
    }
}

// === impl AccessLogWriter ===

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        let mut waiting = self.lines.waiting.lock();
        waiting.closed = true;
        self.lines.changed.notify_all();
        self.lines.changed.wait_while_for(&mut waiting, |waiting| !waiting.ended, PATIENCE);
    }
}

// === impl Lines ===

impl Lines {
    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.bytes.len() + line.len() > MAX_BYTES {
            drop(waiting);
            self.dropped.inc();
            return;
        }
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        waiting.count += 1;
        drop(waiting);
        if first {
            self.changed.notify_one();
        }
    }

    fn write_to(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        loop {
            let mut waiting = self.waiting.lock();
            self.changed.wait_while(&mut waiting, |waiting| waiting.bytes.is_empty() && !waiting.closed);
            if !waiting.closed {
                self.changed.wait_while_for(&mut waiting, |waiting| !waiting.closed, GATHER);
            }
            if waiting.bytes.is_empty() {
                return;
            }
            mem::swap(&mut bytes, &mut waiting.bytes);
            let count = mem::take(&mut waiting.count);
            drop(waiting);
            if let Err(error) = out.write_all(&bytes).and_then(|()| out.flush()) {
                self.dropped.inc_by(count);
                tracing::warn!(%error, "lines of the access log cannot be written and are lost");
            }
            bytes.clear();
            bytes.shrink_to(KEPT_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes nothing until it is let go.
    struct Slow {
        go: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.go.recv();
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted_and_the_rest_is_written_at_the_end() {
        let (go, held) = mpsc::channel();
        let (written, result) = mpsc::channel();
        let metrics = Registry::new();
        let slow = Slow { go: held, written };
        let (log, writer) = AccessLog::start(AccessLogFormat::Clf, slow, &metrics).expect("a log");
        let path = "x".repeat(1000);
        let entry = Entry { path: &path, ..Entry::default() };
        for _ in 0..10_000 {
            log.log(&entry);
        }
        assert!(log.lines.dropped.get() > 0, "10 MB do not wait");
        drop(go);
        drop(writer);
        let all: Vec<u8> = result.into_iter().flatten().collect();
        let lines = all.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count() as u64;
        assert_eq!(lines + log.lines.dropped.get(), 10_000);
        log.log(&entry);
        assert_eq!(lines + log.lines.dropped.get(), 10_001, "nobody writes it any more");
    }
}
