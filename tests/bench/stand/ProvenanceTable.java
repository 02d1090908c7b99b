import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.CompressionType;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/**
 * A topic of provenance records as a KTable in RocksDB, and the resolution query as a scan over it.
 *
 * <p>Tuned for loading: no changelog (the optimised topology restores from the input topic), no record cache, two
 * threads, large fetches. The query starts only when the load has ended: interactive queries can deadlock during it.
 *
 * <p>Arguments: bootstrap topic messages stateDirectory timeoutSeconds model versions from to queryRuns. Prints one line
 * of JSON after the load and one for each query run; with none of these it ends as an application should.
 */
public class ProvenanceTable {
  static final String STORE = "provenance";
  static final LongAdder TAKEN = new LongAdder();
  static final JsonFactory JSON = new JsonFactory();
  static final List<String> SENSITIVITIES = List.of("low", "medium", "high", "critical");

  /** One memory budget for all partition stores. */
  public static class Rocks implements RocksDBConfigSetter {
    static final Cache CACHE = new LRUCache(128L << 20);
    static final WriteBufferManager BUFFERS = new WriteBufferManager(512L << 20, CACHE);

    @Override
    public void setConfig(String store, Options options, Map<String, Object> config) {
      BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
      table.setBlockCache(CACHE);
      table.setBlockSize(16 * 1024);
      options.setTableFormatConfig(table);
      options.setWriteBufferSize(64L << 20);
      options.setMaxWriteBufferNumber(3);
      options.setCompressionType(CompressionType.LZ4_COMPRESSION);
      options.setMaxBackgroundJobs(2);
      options.setLevel0FileNumCompactionTrigger(8);
    }

    @Override
    public void close(String store, Options options) {}
  }

  record Query(String model, Set<String> versions, String from, String to) {}

  static class Person {
    final TreeSet<String> categories = new TreeSet<>();
    final TreeSet<String> kinds = new TreeSet<>();
    int sensitivity = 0;
  }

  /** Reads a record only as far as it can still match. */
  static void match(byte[] value, Query query, Map<Long, Person> found) throws Exception {
    long customer = 0;
    String kind = null;
    String sensitivity = null;
    List<String> categories = new ArrayList<>();
    try (JsonParser parser = JSON.createParser(value)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        JsonToken token = parser.nextToken();
        switch (field) {
          case "customer_id" -> customer = parser.getLongValue();
          case "model_id" -> {
            if (!parser.getText().equals(query.model)) return;
          }
          case "model_version" -> {
            if (!query.versions.contains(parser.getText())) return;
          }
          case "generated_at" -> {
            if (parser.getText().compareTo(query.to) >= 0) return;
          }
          case "deleted_at" -> {
            if (token != JsonToken.VALUE_NULL && parser.getText().compareTo(query.from) <= 0) return;
          }
          case "kind" -> kind = parser.getText();
          case "sensitivity" -> sensitivity = parser.getText();
          case "categories" -> {
            while (parser.nextToken() != JsonToken.END_ARRAY) categories.add(parser.getText());
          }
          default -> parser.skipChildren();
        }
      }
    }
    Person person = found.computeIfAbsent(customer, key -> new Person());
    person.categories.addAll(categories);
    person.kinds.add(kind);
    person.sensitivity = Math.max(person.sensitivity, SENSITIVITIES.indexOf(sensitivity));
  }

  static double cpuSeconds() {
    var system = java.lang.management.ManagementFactory.getOperatingSystemMXBean();
    return ((com.sun.management.OperatingSystemMXBean) system).getProcessCpuTime() / 1e9;
  }

  static Properties settings(String bootstrap, String directory) {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, "bench-" + System.nanoTime());
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
    p.put(StreamsConfig.STATE_DIR_CONFIG, directory);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0L);
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 5000);
    p.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
    p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Rocks.class);
    p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20000);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 20000);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_BYTES_CONFIG), 64 << 20);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 8 << 20);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MIN_BYTES_CONFIG), 1 << 20);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG), 50);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), 1 << 20);
    return p;
  }

  static KafkaStreams application(String topic, Properties settings) {
    StreamsBuilder builder = new StreamsBuilder();
    Materialized<byte[], byte[], KeyValueStore<Bytes, byte[]>> store =
        Materialized.<byte[], byte[], KeyValueStore<Bytes, byte[]>>as(STORE)
            .withKeySerde(Serdes.ByteArray())
            .withValueSerde(Serdes.ByteArray())
            .withLoggingDisabled()
            .withCachingDisabled();
    KTable<byte[], byte[]> table = builder.table(topic, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()), store);
    table.toStream().foreach((key, value) -> TAKEN.increment());
    return new KafkaStreams(builder.build(settings), settings);
  }

  /** Scans the partition stores in two threads, as many as the load has. */
  static void answer(KafkaStreams streams, int partitions, Query query) throws Exception {
    long began = System.nanoTime();
    double cpu = cpuSeconds();
    AtomicLong scanned = new AtomicLong();
    ExecutorService threads = Executors.newFixedThreadPool(2);
    List<Future<Map<Long, Person>>> parts = new ArrayList<>();
    for (int number = 0; number < partitions; number++) {
      int partition = number;
      parts.add(
          threads.submit(
              () -> {
                ReadOnlyKeyValueStore<byte[], byte[]> store =
                    streams.store(
                        StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<byte[], byte[]>keyValueStore())
                            .withPartition(partition));
                Map<Long, Person> found = new HashMap<>();
                long count = 0;
                try (KeyValueIterator<byte[], byte[]> all = store.all()) {
                  for (; all.hasNext(); count++) match(all.next().value, query, found);
                }
                scanned.addAndGet(count);
                return found;
              }));
    }
    TreeMap<Long, Person> people = new TreeMap<>();
    for (Future<Map<Long, Person>> part : parts) {
      // One customer's records share a partition in the generated topic, but not in every topic.
      part.get().forEach((id, person) -> people.merge(id, person, ProvenanceTable::union));
    }
    threads.shutdown();
    double seconds = (System.nanoTime() - began) / 1e9;
    MessageDigest digest = MessageDigest.getInstance("MD5");
    people.forEach(
        (id, person) ->
            digest.update(
                (id + "|" + String.join(",", person.categories) + "|" + SENSITIVITIES.get(person.sensitivity) + "|"
                        + String.join(",", person.kinds) + "\n")
                    .getBytes()));
    System.out.printf(
        Locale.ROOT,
        "{\"query_s\":%.3f,\"query_cpu_s\":%.2f,\"scanned\":%d,\"customers\":%d,\"md5\":\"%s\"}%n",
        seconds, cpuSeconds() - cpu, scanned.get(), people.size(), HexFormat.of().formatHex(digest.digest()));
  }

  static Person union(Person one, Person other) {
    one.categories.addAll(other.categories);
    one.kinds.addAll(other.kinds);
    one.sensitivity = Math.max(one.sensitivity, other.sensitivity);
    return one;
  }

  static long bytesBelow(Path folder) throws Exception {
    try (var paths = Files.walk(folder)) {
      return paths.filter(Files::isRegularFile).mapToLong(path -> path.toFile().length()).sum();
    }
  }

  public static void main(String[] args) throws Exception {
    String topic = args[1];
    long messages = Long.parseLong(args[2]);
    Path directory = Path.of(args[3]);
    long timeout = Long.parseLong(args[4]);
    Query query = new Query(args[5], Set.copyOf(Arrays.asList(args[6].split(","))), args[7], args[8]);
    int runs = Integer.parseInt(args[9]);

    KafkaStreams streams = application(topic, settings(args[0], directory.toString()));
    long began = System.nanoTime();
    streams.start();
    long first = 0;
    long taken = 0;
    while (taken < messages) {
      Thread.sleep(10);
      taken = TAKEN.sum();
      if (first == 0 && taken > 0) first = System.nanoTime();
      if ((System.nanoTime() - began) / 1e9 > timeout || streams.state() == KafkaStreams.State.ERROR) {
        System.err.printf("%s after %d of %d messages%n", streams.state(), taken, messages);
        System.exit(1);
      }
    }
    long end = System.nanoTime();
    int partitions = 0;
    for (var thread : streams.metadataForLocalThreads())
      for (var task : thread.activeTasks()) partitions += task.topicPartitions().size();
    // What the load has in memory only is written out, so that both sides end with everything on disk.
    if (runs == 0) streams.close(Duration.ofSeconds(60));
    double durable = (System.nanoTime() - began) / 1e9;
    System.out.printf(
        Locale.ROOT,
        "{\"messages\":%d,\"load_s\":%.3f,\"load_from_first_s\":%.3f,\"durable_s\":%.3f,\"load_cpu_s\":%.2f,\"disk_mb\":%.1f}%n",
        taken, (end - began) / 1e9, (end - first) / 1e9, durable, cpuSeconds(), bytesBelow(directory) / 1e6);
    for (int run = 0; run < runs; run++) answer(streams, partitions, query);
    streams.close(Duration.ofSeconds(60));
    System.exit(0);
  }
}
