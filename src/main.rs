fn main() -> std::process::ExitCode {
    lango::cli::main()
}
