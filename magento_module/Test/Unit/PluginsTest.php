<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Test\Unit;

use Magento\Authorization\Model\UserContextInterface;
use Magento\Customer\Api\Data\AddressInterface;
use Magento\Customer\Api\Data\CustomerInterface;
use Magento\Customer\Api\Data\CustomerSearchResultsInterface;
use Magento\Framework\Api\ExtensionAttributesFactory;
use Magento\Framework\App\Config\ScopeConfigInterface;
use Magento\Framework\AuthorizationInterface;
use Magento\Framework\Exception\AuthorizationException;
use Magento\Framework\Phrase;
use Magento\Framework\Webapi\Rest\Request;
use Magento\Framework\Webapi\Rest\Response;
use Magento\Framework\Webapi\ServiceInputProcessor;
use Magento\Framework\Webapi\ServiceOutputProcessor;
use Magento\Sales\Api\Data\OrderInterface;
use Magento\Webapi\Controller\Rest\RequestValidator;
use Psr\Log\LoggerInterface;
use Tocsin\BreachNotification\Api\RecordProvenanceInBulkInterface;
use Tocsin\BreachNotification\Api\RecordProvenanceInterface;
use Tocsin\BreachNotification\Model\AiWrittenAttributes;
use Tocsin\BreachNotification\Model\RecordRun;
use Tocsin\BreachNotification\Plugin\ExplainBearerTokens;
use Tocsin\BreachNotification\Plugin\GiveRecordsAsTheyCame;
use Tocsin\BreachNotification\Plugin\RecordNamedRun;
use Tocsin\BreachNotification\Plugin\ShowProvenance;
use TypeError;

class PluginsTest extends ServiceTestCase
{
    private Request $request;
    private Response $response;
    private bool $allowed = true;
    private int $asked = 0;
    /**
     * @var string[]
     */
    private array $logged = [];

    protected function setUp(): void
    {
        parent::setUp();
        $this->request = new Request();
        $this->request->method = 'PUT';
        $this->request->headers = ['X-Tocsin-Run' => 'night'];
        $this->response = new Response();
    }

    public function testASaveThatNamesItsRunIsRecorded(): void
    {
        $this->request->body = ['customer' => [
            'id' => 1, 'custom_attributes' => [['attribute_code' => 'churn_score', 'value' => 'x']],
        ]];
        $this->recordNamedRun($this->customer(1));
        self::assertSame(['X-Tocsin-Provenance' => 'recorded=1 repeated=0 refused=0'], $this->response->headers);
        self::assertSame([['customer', 1, 'integration/5']], $this->recorded());
    }

    public function testAddressesAreFoundByIdAndNewOnesByTheirOrder(): void
    {
        $this->request->body = ['customer' => ['addresses' => [
            ['company' => 'New'], ['id' => 11, 'city' => 'C'], ['company' => 'Newer', 'city' => 'D'],
        ]]];
        // 12 and 13 are new; the fake store knows only 11 and 12
        $this->recordNamedRun($this->customer(1, [13, 11, 12]));
        self::assertSame(
            'recorded=0 repeated=0 refused=2; company: entity_id is 13; the store has no such customer address',
            $this->response->headers['X-Tocsin-Provenance']
        );
        $this->recordNamedRun($this->customer(2, [11, 12, 14]));
        self::assertSame([['customer_address', 12, 'integration/5']], $this->recorded());
    }

    public function testWhenNewAddressesCannotBeToldApartNoneIsGuessed(): void
    {
        $this->request->body = ['customer' => ['addresses' => [['company' => 'New']]]];
        $this->recordNamedRun($this->customer(2, [11, 12]));
        self::assertSame([], $this->recorded());
    }

    public function testOrders(): void
    {
        $this->request->method = 'POST';
        $this->request->body = ['entity' => ['entity_id' => 22, 'customer_note' => 'x']];
        $this->recordNamedRun($this->order(22));
        self::assertSame([['order', 22, 'integration/5']], $this->recorded());
    }

    public function testWhoNamesNoRunIsLeftAlone(): void
    {
        $this->request->headers = [];
        $this->request->body = ['customer' => ['churn_score' => 'x']];
        $this->recordNamedRun($this->customer(1));
        $this->request->headers = ['X-Tocsin-Run' => 'night'];
        $this->request->method = 'GET';
        $this->recordNamedRun($this->customer(1));
        $this->recordNamedRun(true);
        self::assertSame([[], [], 0], [$this->response->headers, $this->logged, $this->table->queries]);
    }

    public function testWithoutTheRightNothingIsRecordedAndTheCallerIsTold(): void
    {
        $this->allowed = false;
        $this->request->body = ['customer' => ['churn_score' => 'x']];
        $this->recordNamedRun($this->customer(1));
        self::assertSame(
            ['X-Tocsin-Provenance' => 'refused: needs Tocsin_BreachNotification::provenance_record'],
            $this->response->headers
        );
        self::assertSame([], $this->recorded());
    }

    /**
     * A save is done by then: whatever goes wrong here must not become its failure.
     */
    public function testAFaultOfOursIsLoggedAndGoesNoFurther(): void
    {
        $this->request->body = ['customer' => ['churn_score' => 'secret value']];
        $customer = $this->createStub(CustomerInterface::class);
        $customer->method('getId')->willThrowException(new TypeError('about secret value'));
        $this->recordNamedRun($customer);
        $this->showProvenance($customer);
        self::assertSame('failed; the value counts as untagged', $this->response->headers['X-Tocsin-Provenance']);
        self::assertCount(2, $this->logged);
        self::assertStringNotContainsString('secret', implode($this->logged));
        self::assertStringContainsString('TypeError', $this->logged[0]);
    }

    public function testTheAnswerToASaveAsksNothingOfTheDatabase(): void
    {
        $customer = $this->customer(1);
        $this->asked = 0;
        $this->showProvenance($customer, 'PUT');
        self::assertSame([0, 0], [$this->table->queries, $this->asked]);
        $declared = (string)file_get_contents(dirname(__DIR__, 2) . '/etc/extension_attributes.xml');
        self::assertStringNotContainsString('<resource', $declared, 'Magento would ask in the answer to every save');
    }

    public function testTheAnswerToASaveShowsNoProvenanceNotEvenWhatTheRequestGave(): void
    {
        $this->allowed = false;
        foreach (['POST', 'PUT'] as $method) {
            $customer = $this->customer(1);
            $given = (new ExtensionAttributesFactory())->create(CustomerInterface::class)->setTocsinProvenance(['given']);
            $this->showProvenance($customer->setExtensionAttributes($given), $method);
            self::assertNull($customer->getExtensionAttributes()->provenance);
        }
        self::assertSame([], $this->logged);
    }

    public function testProvenanceIsShownInOneQuery(): void
    {
        $this->storeRecords()->execute([
            self::record(['record_id' => 'a']), self::record(['record_id' => 'b', 'entity_id' => 2]),
            self::record(['record_id' => 'c', 'entity_id' => 2]),
        ]);
        $this->table->queries = 0;
        $customers = [$this->customer(1), $this->customer(2), $this->customer(3)];
        $found = $this->createStub(CustomerSearchResultsInterface::class);
        $found->method('getItems')->willReturn($customers);
        $this->showProvenance($found);
        self::assertSame(
            [['a'], ['b', 'c'], []],
            array_map(static fn ($customer) => array_map(
                static fn ($record) => $record->getRecordId(),
                $customer->getExtensionAttributes()->provenance
            ), $customers)
        );
        self::assertSame(1, $this->table->queries);
    }

    public function testWithoutTheRightProvenanceIsNotEvenRead(): void
    {
        $this->allowed = false;
        $order = $this->order(21);
        $this->showProvenance($order);
        self::assertNull($order->getExtensionAttributes());
        self::assertSame(0, $this->table->queries);
    }

    /**
     * @dataProvider refusals
     */
    public function testTheSettingIsNamedWhereItIsTheReason(string $path, string $authorization, bool $on, bool $named): void
    {
        $this->request->path = $path;
        $this->request->headers = ['Authorization' => $authorization];
        $config = $this->createStub(ScopeConfigInterface::class);
        $config->method('isSetFlag')->willReturn($on);
        try {
            (new ExplainBearerTokens($this->request, $config))->aroundValidate(
                new RequestValidator(),
                static function (): void {
                    throw new AuthorizationException(new Phrase("The consumer isn't authorized."));
                }
            );
            self::fail('let through');
        } catch (AuthorizationException $refusal) {
            self::assertStringStartsWith("The consumer isn't authorized.", $refusal->getMessage());
            self::assertSame($named, strpos($refusal->getMessage(), 'oauth/consumer/enable_integration_as_bearer') !== false);
        }
    }

    public function refusals(): array
    {
        return [
            'integration token, setting off' => ['/default/V1/tocsin/data-map', 'Bearer abc', false, true],
            'setting on: the right is missing' => ['/V1/tocsin/data-map', 'Bearer abc', true, false],
            'no token' => ['/V1/tocsin/data-map', '', false, false],
            'OAuth' => ['/V1/tocsin/data-map', 'OAuth x', false, false],
            'not our route' => ['/V1/customers/1', 'Bearer abc', false, false],
        ];
    }

    public function testRecordsComeToTheirServicesAsTheyWereSent(): void
    {
        $plugin = new GiveRecordsAsTheyCame();
        $proceed = static fn (...$arguments) => $arguments;
        $records = [['entity_id' => ['wrong']], 'no record'];
        foreach ([RecordProvenanceInBulkInterface::class, '\\' . RecordProvenanceInBulkInterface::class] as $service) {
            self::assertSame(
                [$records],
                $plugin->aroundProcess(new ServiceInputProcessor(), $proceed, $service, 'execute', ['records' => $records])
            );
        }
        self::assertSame(
            [null],
            $plugin->aroundProcess(new ServiceInputProcessor(), $proceed, RecordProvenanceInterface::class, 'execute', [])
        );
        self::assertSame(
            ['Other', 'execute', ['record' => 1]],
            $plugin->aroundProcess(new ServiceInputProcessor(), $proceed, 'Other', 'execute', ['record' => 1])
        );
    }

    private function recordNamedRun($data): void
    {
        $config = $this->createStub(ScopeConfigInterface::class);
        $rows = [];
        foreach (['customer' => 'churn_score', 'customer_address' => 'company', 'order' => 'customer_note'] as $type => $code) {
            $rows[] = ['entity_type' => $type, 'attribute' => $code, 'model_id' => 'm', 'model_version' => '1',
                'kind' => 'inferred', 'sensitivity' => 'high'];
        }
        $config->method('getValue')->willReturn(json_encode($rows));
        $user = $this->createStub(UserContextInterface::class);
        $user->method('getUserType')->willReturn(UserContextInterface::USER_TYPE_INTEGRATION);
        $user->method('getUserId')->willReturn('5');
        (new RecordNamedRun(
            $this->request,
            $this->response,
            $this->authorization(),
            $user,
            new RecordRun(new AiWrittenAttributes($config), $this->storeRecords(), $this->table),
            $this->logger()
        ))->beforeProcess(new ServiceOutputProcessor(), $data);
    }

    private function showProvenance($data, string $method = 'GET'): void
    {
        $this->request->method = $method;
        (new ShowProvenance(
            $this->request,
            $this->authorization(),
            $this->table,
            $this->makeRecord(),
            new ExtensionAttributesFactory(),
            $this->logger()
        ))->beforeProcess(new ServiceOutputProcessor(), $data);
    }

    private function authorization(): AuthorizationInterface
    {
        $authorization = $this->createStub(AuthorizationInterface::class);
        $authorization->method('isAllowed')->willReturnCallback(function (): bool {
            $this->asked++;
            return $this->allowed;
        });
        return $authorization;
    }

    private function logger(): LoggerInterface
    {
        $logger = $this->createStub(LoggerInterface::class);
        $log = function ($message, array $context = []): void {
            $this->logged[] = $message . json_encode($context);
        };
        $logger->method('error')->willReturnCallback($log);
        $logger->method('warning')->willReturnCallback($log);
        return $logger;
    }

    /**
     * @param int[] $addressIds
     */
    private function customer(int $id, array $addressIds = []): CustomerInterface
    {
        $addresses = array_map(function (int $addressId) {
            $address = $this->createStub(AddressInterface::class);
            $address->method('getId')->willReturn($addressId);
            return $address;
        }, $addressIds);
        return new class ($id, $addresses) implements CustomerInterface {
            private int $id;
            private array $addresses;
            private ?object $extension = null;

            public function __construct(int $id, array $addresses)
            {
                $this->id = $id;
                $this->addresses = $addresses;
            }

            public function getId()
            {
                return $this->id;
            }

            public function getAddresses()
            {
                return $this->addresses;
            }

            public function getExtensionAttributes()
            {
                return $this->extension;
            }

            public function setExtensionAttributes($extensionAttributes)
            {
                $this->extension = $extensionAttributes;
                return $this;
            }
        };
    }

    private function order(int $id): OrderInterface
    {
        $order = $this->createStub(OrderInterface::class);
        $order->method('getEntityId')->willReturn($id);
        return $order;
    }

    private function recorded(): array
    {
        return array_map(
            static fn ($row) => [$row['entity_type'], $row['entity_id'], $row['source_system']],
            $this->table->rows
        );
    }
}
