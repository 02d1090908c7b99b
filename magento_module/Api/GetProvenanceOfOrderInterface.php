<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Says what models wrote about an order.
 *
 * @api
 */
interface GetProvenanceOfOrderInterface
{
    /**
     * Return a page of the records of the order, oldest first, retired ones included.
     *
     * @param int $orderId
     * @param int $pageSize 1 to 1,000
     * @param int $currentPage from 1
     * @return \Tocsin\BreachNotification\Api\Data\ProvenancePageInterface
     * @throws \Magento\Framework\Exception\NoSuchEntityException if there is neither the order nor a record of it
     * @throws \Magento\Framework\Exception\InputException
     */
    public function execute(int $orderId, int $pageSize = 100, int $currentPage = 1);
}
