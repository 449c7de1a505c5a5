//! Prints the CustomResourceDefinition: `cargo xtask codegen` writes it to where it is shipped.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", pilotlight_crds::crd_yaml()?);
    Ok(())
}
