//! Argon2 that returns its memory to the operating system after each hash.
//!
//! The library allocates 19 MiB for each hash. When this is freed, glibc keeps up to three times as much for the
//! thread: it raises its threshold for mapped memory to the largest freed block, up to 32 MiB. A block above that
//! maximum is always mapped separately and unmapped when freed. Its unused pages take no memory.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::password_hash::{self, CustomizedPasswordHasher};
use argon2::{Algorithm, Argon2, Block, Params, Version};

/// Enough blocks to exceed the maximum of glibc's mmap threshold.
const MAPPED_BLOCKS: usize = (33 << 20) / Block::SIZE;

/// The password hasher, also for [`PasswordVerifier`](password_hash::PasswordVerifier).
pub(crate) struct Hasher;

impl CustomizedPasswordHasher<PasswordHash> for Hasher {
    type Params = Params;

    fn hash_password_customized(
        &self,
        password: &[u8],
        salt: &[u8],
        algorithm: Option<&str>,
        version: Option<u32>,
        params: Params,
    ) -> password_hash::Result<PasswordHash> {
        let algorithm = algorithm.map(Algorithm::try_from).transpose()?.unwrap_or_default();
        let version = version.map(Version::try_from).transpose()?.unwrap_or_default();
        let mut hash = [0; Output::MAX_LENGTH];
        let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        let hash = hash.get_mut(..length).ok_or(password_hash::Error::OutputSize)?;
        let mut memory = memory(params.block_count())?;
        let names = (algorithm.ident(), ParamsString::try_from(&params)?);
        Argon2::new(algorithm, version, params).hash_password_into_with_memory(password, salt, hash, &mut memory)?;
        Ok(PasswordHash {
            algorithm: names.0,
            version: Some(version.into()),
            params: names.1,
            salt: Some(Salt::new(salt)?),
            hash: Some(Output::new(hash)?),
        })
    }
}

/// Allocates memory for this number of blocks.
fn memory(blocks: usize) -> password_hash::Result<Vec<Block>> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(blocks.max(MAPPED_BLOCKS)).map_err(|_| password_hash::Error::OutOfMemory)?;
    memory.resize(blocks, Block::default());
    Ok(memory)
}
