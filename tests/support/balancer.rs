//! A balancer of TCP connections: one address, the replicas behind it in turn. It counts, cuts and stalls connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    backends: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    /// In the order in which they came.
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    /// The balancer's own end towards the replica, which is what the replica sees.
    local: Option<SocketAddr>,
    fate: watch::Sender<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// It takes all that comes and passes nothing on; it neither ends nor closes, as a network that drops packets.
    Stalls,
    Cut,
}

impl Balancer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let balancer = Self { address, shared: shared.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (number, fate) = shared.begin();
                tokio::spawn(shared.clone().connection(client, number, fate));
            }
        });
        balancer
    }

    /// From now on, new connections are led to these.
    pub(crate) fn lead_to(&self, backends: Vec<SocketAddr>) {
        *self.shared.backends.lock().expect("a lock") = backends;
    }

    /// How many connections have come.
    pub(crate) fn dials(&self) -> usize {
        self.shared.connections.lock().expect("a lock").len()
    }

    /// Where the connection of this number comes from, as the replica sees it.
    pub(crate) fn local(&self, number: usize) -> SocketAddr {
        self.shared.connections.lock().expect("a lock")[number].local.expect("it was connected")
    }

    /// Ends a connection.
    pub(crate) fn cut(&self, number: usize) {
        self.shared.connections.lock().expect("a lock")[number].fate.send_replace(Fate::Cut);
    }

    /// Passes nothing on of a connection any more.
    pub(crate) fn stall(&self, number: usize) {
        self.shared.connections.lock().expect("a lock")[number].fate.send_replace(Fate::Stalls);
    }
}

impl Shared {
    fn begin(&self) -> (usize, watch::Receiver<Fate>) {
        let fate = watch::Sender::new(Fate::Passes);
        let seen = fate.subscribe();
        let mut connections = self.connections.lock().expect("a lock");
        connections.push(Connection { local: None, fate });
        (connections.len() - 1, seen)
    }

    async fn connection(self: Arc<Self>, client: TcpStream, number: usize, fate: watch::Receiver<Fate>) {
        let backend = {
            let backends = self.backends.lock().expect("a lock");
            backends[self.turn.fetch_add(1, Ordering::Relaxed) % backends.len()]
        };
        let Ok(server) = TcpStream::connect(backend).await else { return };
        self.connections.lock().expect("a lock")[number].local = server.local_addr().ok();
        let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
        let pumps = async {
            tokio::join!(pump(client_read, server_write, fate.clone()), pump(server_read, client_write, fate.clone()));
        };
        let cut = async {
            let _ = fate.clone().wait_for(|fate| *fate == Fate::Cut).await;
        };
        tokio::select! {
            () = pumps => {}
            () = cut => {}
        }
    }
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, fate: watch::Receiver<Fate>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if *fate.borrow() == Fate::Stalls {
            if read == 0 {
                return std::future::pending().await;
            }
        } else if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
