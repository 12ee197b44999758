// The work of benches/image.rs, done by sharp (libvips, libjpeg-turbo), for comparison in the same run.
//
//     node image_peers.mjs FOLDER        the folder in which `npm install sharp` was run
//
// Each line on standard input is a file, a tab, and the file to make of it; the answer is how many milliseconds that took.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const sharp = createRequire(`${process.argv[2]}/`)('sharp');
sharp.concurrency(1);
sharp.cache(false);

for await (const line of createInterface({ input: process.stdin })) {
  const [source, target] = line.split('\t');
  const began = performance.now();
  await sharp(source).resize(800, 800, { fit: 'inside' }).jpeg({ quality: 85 }).toFile(target);
  console.log(performance.now() - began);
}
