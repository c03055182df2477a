//! Transfers between accounts: each locks its two accounts at once, whichever it names first, and none waits for another
//! in a circle.
//!
//! `cargo run --example transfer`

#![expect(clippy::print_stdout, reason = "an example tells its story")]

use std::fs;
use std::path::{Path, PathBuf};

use leasehold::Locks;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ACCOUNTS: usize = 4;
const BALANCE: i64 = 1000;
const TELLERS: usize = 8;
const TRANSFERS: usize = 20;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for account in 0..ACCOUNTS {
        fs::write(file(directory.path(), account), BALANCE.to_string())?;
    }
    let locks = Locks::connect("memory:").await?;

    let mut tellers = tokio::task::JoinSet::new();
    for teller in 0..TELLERS {
        tellers.spawn(run(teller, locks.clone(), directory.path().to_owned()));
    }
    tellers.join_all().await.into_iter().collect::<Result<()>>()?;
    locks.close().await?;

    let balances = (0..ACCOUNTS).map(|account| read(&file(directory.path(), account)));
    let balances = balances.collect::<Result<Vec<_>>>()?;
    println!("{} transfers, and the balances are {balances:?}", TELLERS * TRANSFERS);
    // Without the locks, concurrent reads and writes would have lost money or made some.
    assert_eq!(balances.iter().sum::<i64>(), BALANCE * i64::try_from(ACCOUNTS)?);
    Ok(())
}

/// Runs a teller, whose transfers cross those of the others.
async fn run(teller: usize, locks: Locks, directory: PathBuf) -> Result<()> {
    for transfer in 0..TRANSFERS {
        let from = (teller + transfer) % ACCOUNTS;
        let to = (from + 1 + teller % (ACCOUNTS - 1)) % ACCOUNTS;
        let both = locks.all([from, to].map(|account| locks.lock(format!("account/{account}"))));
        let amount = i64::try_from(teller + 1)?;
        both.run(async |_| move_money(&file(&directory, from), &file(&directory, to), amount)).await??;
    }
    Ok(())
}

fn move_money(from: &Path, to: &Path, amount: i64) -> Result<()> {
    let (rich, poor) = (read(from)?, read(to)?);
    fs::write(from, (rich - amount).to_string())?;
    fs::write(to, (poor + amount).to_string())?;
    Ok(())
}

fn file(directory: &Path, account: usize) -> PathBuf {
    directory.join(account.to_string())
}

fn read(file: &Path) -> Result<i64> {
    Ok(fs::read_to_string(file)?.parse()?)
}
