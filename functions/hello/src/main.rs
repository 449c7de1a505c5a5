//! The smallest function: answers `Hello from <pod>` on the port that Pilotlight names in `PORT`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    hello::serve(hello::router()).await
}
