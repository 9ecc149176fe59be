//! The gRPC suite's client and server by tonic; client.py and server.py are the same by grpcio.
//!
//!     grpc-peer server              # prints its port
//!     grpc-peer client PORT CA-FILE

mod client;
mod codec;
mod server;

use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server"] => server::run().await,
        ["client", port, ca] => client::run(port, &std::fs::read(ca)?).await,
        _ => Err("server, or client PORT CA-FILE".into()),
    }
}
