//! Prints the operator's metrics as rows of a Markdown table: `cargo xtask codegen` makes docs/metrics.md of it.

use pilotlight_operator::metrics::describe;

fn main() {
    for metric in describe() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        println!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind, metric.help);
    }
}
