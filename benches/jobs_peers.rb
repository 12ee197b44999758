# The work of benches/jobs.rs, done by Sidekiq (Debian: apt install ruby-sidekiq).
#
#     ruby jobs_peers.rb URL PROCESSES THREADS     Sidekiq processes with that many threads each
#
# The last line: jobs enqueued in a second, and jobs done in a second. Starting Ruby is in neither. Sidekiq writes no log
# line for a job here; by default it writes two.

require "sidekiq"

ENQUEUERS = 8
MANY = 20_000
SECONDS = 1.0

class Empty
  include Sidekiq::Worker

  def perform; end
end

Sidekiq.logger.level = Logger::ERROR
# The redis gem of Debian would print a warning at each call of this version of Sidekiq, which takes time.
Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)
Redis.sadd_returns_boolean = false if Redis.respond_to?(:sadd_returns_boolean=)

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def enqueue_for_a_while
  count, ends = 0, now + SECONDS
  while now < ends
    Empty.perform_async
    count += 1
  end
  count
end

# Jobs a second, from eight threads of this process.
def by_threads
  began = now
  counts = ENQUEUERS.times.map { Thread.new { enqueue_for_a_while } }.map(&:value)
  counts.sum / (now - began)
end

# Jobs a second, from eight processes.
def by_processes
  go_reader, go = IO.pipe
  results = ENQUEUERS.times.map do
    reader, writer = IO.pipe
    ready_reader, ready = IO.pipe
    fork do
      go.close
      Sidekiq.redis = { url: ENV.fetch("REDIS_URL") }
      Empty.perform_async
      ready.puts
      ready.close
      go_reader.read
      writer.puts enqueue_for_a_while
      exit!
    end
    writer.close
    ready.close
    ready_reader.gets
    reader
  end
  began = now
  go.close
  counts = results.map { |reader| reader.gets.to_i }
  rate = counts.sum / (now - began)
  Process.waitall
  rate
end

# Jobs a second. The workers wait for the queue, which gets all jobs in one step.
def drained(processes, threads)
  redis = Redis.new(url: ENV.fetch("REDIS_URL"))
  redis.flushall
  MANY.times.each_slice(1_000) { |some| Sidekiq::Client.push_bulk("class" => Empty, "args" => some.map { [] }) }
  redis.rename("queue:default", "queue:all")
  workers = processes.times.map do
    spawn("sidekiq", "-c", threads.to_s, "-q", "default", "-r", File.expand_path(__FILE__), out: File::NULL, err: :err)
  end
  sleep 0.01 until redis.scard("processes") == processes
  sleep 0.5 # until all threads wait
  began = now
  redis.rename("queue:all", "queue:default")
  sleep 0.001 until redis.llen("queue:default").zero?
  took = now - began
  workers.each { |worker| Process.kill(:TERM, worker) }
  workers.each { |worker| Process.wait(worker) }
  MANY / took
end

# Sidekiq loads this file for the class alone.
if $PROGRAM_NAME == __FILE__
  url, processes, threads = ARGV
  ENV["REDIS_URL"] = url
  enqueued = [by_threads, by_processes].max
  puts "#{enqueued} #{drained(Integer(processes), Integer(threads))}"
end
