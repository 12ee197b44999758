// The work of benches/image.rs, done by sharp (libvips, libjpeg-turbo), for comparison in the same run.
//
//     node image_peers.mjs FOLDER        the folder in which `npm install sharp` was run
//
// Each line on standard input is a file, the file to make of it, and the quality, separated by tabs; the answer is how many
// milliseconds that took. With `progressive` in place of a quality, the whole image becomes a progressive JPEG.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const sharp = createRequire(`${process.argv[2]}/`)('sharp');
sharp.concurrency(1);
sharp.cache(false);

for await (const line of createInterface({ input: process.stdin })) {
  const [source, target, quality] = line.split('\t');
  const began = performance.now();
  if (quality === 'progressive') {
    await sharp(source).jpeg({ quality: 90, progressive: true }).toFile(target);
  } else {
    await sharp(source).resize(800, 800, { fit: 'inside' }).jpeg({ quality: Number(quality) }).toFile(target);
  }
  console.log(performance.now() - began);
}
